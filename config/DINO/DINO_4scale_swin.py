"""DINO 4-scale, Swin-L (ImageNet-22k, 384 px), COCO, 12 epochs (official model zoo: 56.8 AP).

    torchrun --nproc_per_node=8 main.py --config_file config/DINO/DINO_4scale_swin.py \
        --data_path DIR/coco --output_dir logs/DINO_4scale_swin

Smaller variants: --options backbone=swin_T_224_1k
"""

_base_ = "DINO_4scale.py"

backbone = "swin_L_384_22k"
backbone_freeze_at = 0
batch_size = 1
