"""What the paper does not do: sampling by content, augmentation for X-rays. All off: 0 is off everywhere."""

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
