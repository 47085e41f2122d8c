"""TBX11K: 512 x 512 chest X-rays, three categories, 91 % of the images without a box."""

dataset_file = "tbx11k"
train_list = "TBX11K_train"
val_list = "TBX11K_val"

num_classes = 4
dn_labelbook_size = 4
restrict_to_categories = True
dn_padding_loss = False

data_aug_scales = [416, 448, 480, 512, 544, 576, 608, 640]
data_aug_max_size = 800
data_aug_square = True
data_aug_scales2_resize = [448, 512, 576]
data_aug_scales2_crop = [352, 576]
data_eval_scale = 512
