"""--config_file config/DINO/DINO_4scale_tbx11k_swin.py"""

_base_ = "DINO_4scale_tbx11k_strong.py"

backbone = "swin_B_224_22k"
batch_size = 4
gradient_accumulation_steps = 4
