"""DINO 4-scale, ResNet-50, TBX11K, 50 epochs on one modern GPU (bf16, 16 GB or more): 16 images per optimizer step.

    torchrun --nproc_per_node=1 main.py --config_file config/DINO/DINO_4scale_tbx11k_strong.py \
        --data_path DIR/TBX11K --output_dir logs/tbx11k_strong

16 = batch_size x gradient_accumulation_steps x GPUs, and only the product matters (docs/accumulation.md). Two GPUs:
--options gradient_accumulation_steps=1. 24 GB, without accumulation: batch_size=16 gradient_accumulation_steps=1. 12
GB: batch_size=4 gradient_accumulation_steps=4. Older GPUs: amp=fp16. Sources of all parts: docs/recipes.md.

Memory: 11 GB (estimate: 0.95 GB of weights, gradients, moments and EMA; 1.2 GB for each of 8 images at the largest
scale, 640: measured for one on a CPU, of which 1.0 GB kept for the backward pass).
Time: 2 to 4 minutes an epoch on an A100, 2 to 4 hours in all (estimate: the official code took 15.5 minutes with one
image at a time in float32 and 97 % of the GPU idle; here eight share kernel launches). A slower GPU: up to twice.
AP50 / AP, any TB, all images: .50 to .65 / .22 to .28 (expected, not measured: Deformable DETR has .517 / .220 and a
RetinaNet .680 / .295 on the test list, in the SymFormer paper; docs/recipes.md).
"""

_base_ = "DINO_4scale_tbx11k_1gpu.py"

batch_size = 8
gradient_accumulation_steps = 2
amp = "bf16"
positive_fraction = 0.25

lr = 2e-4
lr_backbone = 2e-5
param_dict_type = "ddetr_in_mmdet"
lr_linear_proj_mult = 0.1
decay_norms_and_biases = False
backbone_freeze_at = 0
cls_loss_coef = 2.0

epochs = 50
lr_schedule = "flat_cosine"
lr_flat_share = 0.5
warmup_steps = 400  # an epoch has 413
ema_decay = 0.998  # 500 steps, 1.2 epochs
ema_warmup_steps = 250

eval_batch_size = 8
num_workers = 8
