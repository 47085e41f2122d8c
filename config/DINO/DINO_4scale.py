"""DINO 4-scale, ResNet-50, COCO, 12 epochs (arXiv 2203.03605, Table 1: 49.0 AP).

    torchrun --nproc_per_node=8 main.py --config_file config/DINO/DINO_4scale.py \
        --data_path DIR/coco --output_dir logs/DINO_4scale
"""

_base_ = [
    "../_base_/coco.py",
    "../_base_/model.py",
    "../_base_/loss.py",
    "../_base_/optim.py",
    "../_base_/data.py",
    "../_base_/eval.py",
    "../_base_/speed.py",
    "../_base_/runtime.py",
]
