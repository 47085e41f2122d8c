"""COCO 2017 with the paper's augmentation."""

dataset_file = "coco"
train_list = "train2017"
val_list = "val2017"

num_classes = 91
dn_labelbook_size = 91
restrict_to_categories = False
dn_padding_loss = True

data_aug_scales = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
data_aug_max_size = 1333
data_aug_square = False
data_aug_scales2_resize = [400, 500, 600]
data_aug_scales2_crop = [384, 600]
data_eval_scale = 800
