"""The feature extractors by name: ResNet, Swin Transformer and ConvNeXt.

A backbone is a module with `num_channels`, one number per returned stage, and a forward that takes images
[B, 3, H, W] of any size, padded right and bottom by the caller, to a list of maps [B, C_l, h_l, w_l]. Building one
never touches the network; weights come from models/backbones/weights.py.
"""

from torch import nn

from models.backbones.convnext import ConvNeXt
from models.backbones.resnet import NUM_STAGES, FoldingBasicBlock, FoldingBottleneck, Norm, ResNetBackbone
from models.backbones.swin import SwinTransformer

RESNETS = {
    "resnet10": (FoldingBasicBlock, (1, 1, 1, 1), 64),
    "resnet10_narrow": (FoldingBasicBlock, (1, 1, 1, 1), 32),
    "resnet18": (FoldingBasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (FoldingBasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (FoldingBottleneck, (3, 4, 6, 3), 64),
    "resnet101": (FoldingBottleneck, (3, 4, 23, 3), 64),
}
SWINS = {
    "swin_T_224_1k": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window": 7},
    "swin_S_224_1k": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "window": 7},
    "swin_B_224_22k": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window": 7},
    "swin_B_384_22k": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window": 12},
    "swin_L_224_22k": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window": 7},
    "swin_L_384_22k": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window": 12},
}
CONVNEXTS = {
    "convnext_tiny_22k": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "convnext_base_22k": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "convnext_large_22k": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    "convnext_xlarge_22k": {"depths": (3, 3, 27, 3), "widths": (256, 512, 1024, 2048)},
}
SWIN_DROP_PATH = 0.2


def build_backbone(name: str, *, norm: Norm, freeze_at: int, return_interm_indices: tuple[int, ...]) -> nn.Module:
    """A freshly initialised backbone.

    Args:
        name: one of util.config.schema.BACKBONES.
        norm: normalisation of a ResNet; the others bring their own and take "frozen_bn".
        freeze_at: leading parts of a ResNet that never train (0 none, 1 stem, 2 stem and layer1); 0 for the others.
        return_interm_indices: consecutive stages ending with 3; 0 is stride 4, 3 is stride 32.

    Raises:
        ValueError: an unknown name, or settings that the network cannot have.
    """
    stages = tuple(return_interm_indices)
    if not stages or stages != tuple(range(NUM_STAGES))[-len(stages) :]:
        raise ValueError(f"return_interm_indices must be consecutive and end with 3, such as (1, 2, 3), got {stages}")
    if name in RESNETS:
        block, depths, width = RESNETS[name]
        return ResNetBackbone(block, depths, norm=norm, freeze_at=freeze_at, return_interm_indices=stages, width=width)
    if name not in SWINS and name not in CONVNEXTS:
        raise ValueError(f"backbone must be one of {[*RESNETS, *SWINS, *CONVNEXTS]}, got {name!r}")
    if norm != "frozen_bn" or freeze_at:
        raise ValueError(f"backbone {name} wants norm 'frozen_bn' and freeze_at 0, got {norm!r} and {freeze_at}")
    if name in SWINS:
        return SwinTransformer(**SWINS[name], drop_path=SWIN_DROP_PATH, return_interm_indices=stages)
    return ConvNeXt(**CONVNEXTS[name], return_interm_indices=stages)
