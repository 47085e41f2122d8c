"""DINO 4-scale, ConvNeXt-XL (ImageNet-22k), COCO, 12 epochs.

    torchrun --nproc_per_node=8 main.py --config_file config/DINO/DINO_4scale_convnext.py \
        --data_path DIR/coco --output_dir logs/DINO_4scale_convnext

Smaller variants: --options backbone=convnext_tiny_22k
"""

_base_ = "DINO_4scale.py"

backbone = "convnext_xlarge_22k"
backbone_freeze_at = 0
batch_size = 1
