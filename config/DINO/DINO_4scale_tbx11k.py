"""DINO 4-scale, ResNet-50, TBX11K, 50 epochs on 2 GPUs: one image per GPU, two per optimizer step.

    torchrun --nproc_per_node=2 main.py --config_file config/DINO/DINO_4scale_tbx11k.py \
        --data_path DIR/TBX11K --output_dir logs/tbx11k

One GPU: DINO_4scale_tbx11k_1gpu.py, the same training with two accumulation steps.
focal_alpha 0.75 increases the weight of positives: 91 % of the images have none.
"""

_base_ = [
    "../_base_/tbx11k.py",
    "../_base_/model.py",
    "../_base_/loss.py",
    "../_base_/optim.py",
    "../_base_/data.py",
    "../_base_/eval.py",
    "../_base_/speed.py",
    "../_base_/runtime.py",
]

num_queries = 300
focal_alpha = 0.75
focal_gamma = 2.0
cls_loss_coef = 1.0
bbox_loss_coef = 5.0
giou_loss_coef = 2.0

epochs = 50
lr = 1e-4
lr_backbone = 1e-5
lr_drop = [30, 40]
warmup_steps = 1000
batch_size = 1
gradient_accumulation_steps = 1
use_ema = True
ema_decay = 0.9997
ema_warmup_steps = 2000
