"""DINO 4-scale, ConvNeXt-B (ImageNet-22k), TBX11K, 50 epochs on one GPU (bf16, 16 GB or more): 16 images per step.

    torchrun --nproc_per_node=1 main.py --config_file config/DINO/DINO_4scale_tbx11k_convnext.py \
        --data_path DIR/TBX11K --output_dir logs/tbx11k_convnext

The strong recipe with another backbone. --options backbone=convnext_tiny_22k is as large as a ResNet-50; 80 GB suffice
for backbone=convnext_xlarge_22k.

Memory: 11 GB (estimate: 2.2 GB of weights, gradients, moments and EMA of 108 million parameters; 2.2 GB for each of
4 images at the largest scale, 640: 1.9 GB kept for the backward pass of one on a CPU, and the overhead measured for
ResNet-50).
Time: 4 to 8 minutes an epoch on an A100, 4 to 7 hours in all (estimate: 1.8 times the operations of ResNet-50, and half
as many images per kernel launch).
AP50 / AP: at most .03 / .02 above the strong recipe (expected, not measured: no published result of a ConvNeXt on
TBX11K. On X-rays with many empty images convolutional detectors were better than transformers: Cheng et al.,
Diagnostics 2024;14(23):2636).
"""

_base_ = "DINO_4scale_tbx11k_strong.py"

backbone = "convnext_base_22k"
batch_size = 4
gradient_accumulation_steps = 4
eval_batch_size = 4
