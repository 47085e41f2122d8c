"""--config_file config/DINO/DINO_5scale_tbx11k.py"""

_base_ = "DINO_4scale_tbx11k_strong.py"

return_interm_indices = [0, 1, 2, 3]
num_feature_levels = 5
batch_size = 2
gradient_accumulation_steps = 8
