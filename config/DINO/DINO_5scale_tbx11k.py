"""DINO 5-scale, ResNet-50, TBX11K, 50 epochs on one GPU (bf16, 24 GB or more): 16 images per optimizer step.

    torchrun --nproc_per_node=1 main.py --config_file config/DINO/DINO_5scale_tbx11k.py \
        --data_path DIR/TBX11K --output_dir logs/tbx11k_5scale

The strong recipe with an additional feature map of stride 4: four times the tokens in the encoder. Lesions of TBX11K
are large (half of the boxes above 119 pixels of 512, 8 of 1211 small by COCO's definition), so expect little. Less
memory: --options batch_size=2 gradient_accumulation_steps=8, or activation_checkpointing=True.

Memory: 16 GB (estimate: 0.95 GB of weights, gradients, moments and EMA; 3.6 GB for each of 4 images at the largest
scale, 640: 3.1 GB kept for the backward pass of one on a CPU, and the overhead measured for 4 scales).
Time: 4 to 8 minutes an epoch on an A100, 4 to 7 hours in all (estimate: three times the operations of 4 scales, half
as many images per kernel launch).
AP50 / AP: as the strong recipe, within .01 (expected, not measured: on COCO 49.4 against 49.0 AP).
"""

_base_ = "DINO_4scale_tbx11k_strong.py"

return_interm_indices = [0, 1, 2, 3]
num_feature_levels = 5
batch_size = 4
gradient_accumulation_steps = 4
eval_batch_size = 4
