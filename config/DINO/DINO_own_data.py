"""DINO 4-scale, ResNet-50, any COCO-format folder (docs/data.md), 50 epochs on one modern GPU: 16 images per step.

    python main.py --config_file config/DINO/DINO_own_data.py --data_path DIR --output_dir logs/mine

DIR holds train/, val/, annotations/instances_train.json and annotations/instances_val.json; other names of the lists:
--options train_list=NAME val_list=NAME. The classes are the categories of the training list, whatever their ids. Choose
data_aug_scales and data_eval_scale for the size of your objects (docs/data.md); positive_fraction=0.25 focal_alpha=0.75
where few images have boxes (docs/focal_alpha.md).

Memory: 11 GB (estimate, as DINO_4scale_tbx11k_strong.py, whose optimisation this is).
Time: in proportion to the images, 2 to 4 hours for 6600 on an A100 (estimate).
AP50 / AP: depend on the data; nothing was measured on a GPU.
"""

_base_ = "DINO_4scale_tbx11k_strong.py"

dataset_file = "coco"
train_list = "train"
val_list = "val"

num_classes = "auto"
dn_labelbook_size = "auto"

positive_fraction = 0.0  # and focal_alpha as in the official code: for data where most images have boxes
focal_alpha = 0.25
warmup_steps = 100  # of small data an epoch has few steps
