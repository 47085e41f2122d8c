"""Loading, sampling and augmentation: flips and crops as in the paper, all else off (0 means off).

Lists of images and sizes belong to the data set: coco.py, tbx11k.py.
"""

allow_unlabelled_extras = False
exclude_unlabelled_tb = True
data_aug_flip = 0.5
data_aug_crop = 0.5

positive_fraction = 0.0
repeat_threshold = 0.0

data_aug_rotate = 0.0
data_aug_zoom = 0.0
data_aug_brightness = 0.0
data_aug_contrast = 0.0
data_aug_gamma = 0.0
data_aug_clahe = 0.0
data_aug_clahe_clip = 3.0
data_aug_noise = 0.0
data_aug_erase = 0.0
data_aug_erase_area = 0.05
data_aug_mosaic = 0.0
data_aug_copy_paste = 0.0
data_aug_mix_end_epoch = 0

image_depth = "auto"
image_cache = ""
num_workers = 4
