"""DINO 5-scale, ResNet-50, COCO, 12 epochs (arXiv 2203.03605, Table 1: 49.4 AP).

    torchrun --nnodes=2 --nproc_per_node=8 ... main.py --config_file config/DINO/DINO_5scale.py \
        --data_path DIR/coco --output_dir logs/DINO_5scale
"""

_base_ = "DINO_4scale.py"

return_interm_indices = [0, 1, 2, 3]
num_feature_levels = 5
batch_size = 1
