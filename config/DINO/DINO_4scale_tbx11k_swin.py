"""DINO 4-scale, Swin-B (ImageNet-22k), TBX11K, 50 epochs on one GPU (bf16, 16 GB or more): 16 images per step.

    torchrun --nproc_per_node=1 main.py --config_file config/DINO/DINO_4scale_tbx11k_swin.py \
        --data_path DIR/TBX11K --output_dir logs/tbx11k_swin

The strong recipe with another backbone. Swin-L as in DINO's best models: --options backbone=swin_L_384_22k, 13 GB with
batch_size=2 gradient_accumulation_steps=8, else 22 GB (estimate). backbone=swin_T_224_1k is as large as a ResNet-50.
Stochastic depth is drawn per forward pass: the training is the same for GPUs against accumulation steps, but not for
another batch_size (docs/accumulation.md).

Memory: 12 GB (estimate: 2.1 GB of weights, gradients, moments and EMA of 107 million parameters; 2.4 GB for each of
4 images at the largest scale, 640: 2.1 GB kept for the backward pass of one on a CPU, and the overhead measured for
ResNet-50).
Time: 4 to 8 minutes an epoch on an A100, 4 to 7 hours in all (estimate: 1.9 times the operations of ResNet-50, and half
as many images per kernel launch).
AP50 / AP: at most .03 / .02 above the strong recipe (expected, not measured: with a transformer backbone SymFormer's
RetinaNet gained .024 / .005 on the test list. On COCO Swin-L, twice this size, gained 7 AP; X-rays are fewer).
"""

_base_ = "DINO_4scale_tbx11k_strong.py"

backbone = "swin_B_224_22k"
batch_size = 4
gradient_accumulation_steps = 4
eval_batch_size = 4
