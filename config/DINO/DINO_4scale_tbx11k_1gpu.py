"""DINO 4-scale, ResNet-50, TBX11K, 50 epochs on 1 GPU: two images per optimizer step, by accumulation.

    torchrun --nproc_per_node=1 main.py --config_file config/DINO/DINO_4scale_tbx11k_1gpu.py \
        --data_path DIR/TBX11K --output_dir logs/tbx11k_1gpu

The same training as DINO_4scale_tbx11k.py on two GPUs; only the layout of a step differs.
"""

_base_ = "DINO_4scale_tbx11k.py"

gradient_accumulation_steps = 2
