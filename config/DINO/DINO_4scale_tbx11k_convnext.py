"""--config_file config/DINO/DINO_4scale_tbx11k_convnext.py"""

_base_ = "DINO_4scale_tbx11k_strong.py"

backbone = "convnext_base_22k"
batch_size = 4
gradient_accumulation_steps = 4
