"""A small DINO that trains on the phantom on a CPU in minutes: for the quick start and the end-to-end tests.

    python main.py --config_file config/DINO/DINO_tiny_phantom.py --data_path DIR --output_dir logs/phantom

Every mechanism of the full recipe is on; only the sizes are small, and the backbone trains from scratch. Two things
differ: group norm, since frozen batch norm needs pretrained weights, and NMS, since after so few steps several queries
still detect the same lesion (DINO unlearns that later).
"""

_base_ = "DINO_4scale_tbx11k_1gpu.py"

backbone = "resnet10_narrow"
backbone_norm = "group_norm"
backbone_freeze_at = 0
backbone_weights = "none"
return_interm_indices = [1, 2, 3]
num_feature_levels = 3
hidden_dim = 64
nheads = 4
enc_layers = 1
dec_layers = 3
dim_feedforward = 128
num_queries = 30
dn_number = 50

epochs = 6
lr = 1e-3
lr_backbone = 1e-3
lr_drop = 4
warmup_steps = 50
batch_size = 2
gradient_accumulation_steps = 2
ema_decay = 0.99
ema_warmup_steps = 50

data_aug_crop = 0.0
data_aug_scales = [160, 192, 224]
data_aug_max_size = 256
data_aug_scales2_resize = [192]
data_aug_scales2_crop = [128, 192]
data_eval_scale = 192

num_select = 30
nms_iou_threshold = 0.5
eval_batch_size = 8
num_workers = 2
log_every = 20
