"""The paper's 12-epoch schedule: AdamW, one drop, no warm-up."""

lr = 1e-4
lr_backbone = 1e-5
lr_linear_proj_mult = 0.1
param_dict_type = "default"
weight_decay = 1e-4
decay_norms_and_biases = True
clip_max_norm = 0.1
epochs = 12
lr_schedule = "multistep"
lr_final_factor = 0.0
lr_flat_share = 0.5
lr_drop = 11
lr_drop_factor = 0.1
warmup_steps = 0
batch_size = 2
gradient_accumulation_steps = 1
use_ema = False
ema_decay = 0.9997
ema_warmup_steps = 0
amp = "off"
