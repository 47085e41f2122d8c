"""The table of backbones: ResNet, Swin Transformer and ConvNeXt by name.

To add a backbone, add a row to `BACKBONES`, and a module with its architecture where that is new.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from torch import Tensor

from models.backbones import convnext, resnet, swin
from models.backbones.base import Backbone
from models.backbones.resnet import NUM_STAGES, FoldingBasicBlock, FoldingBottleneck, Norm
from util.config import ConfigError

FIRST_STRIDE = 4  # of stage 0; each further stage doubles it
LONGEST_SHOWN = 100  # characters of an unknown name in a message


@dataclass(frozen=True)
class BackboneSpec:
    """A row of the table.

    Args:
        build: constructor, complete but for `return_interm_indices`; of a ResNet also for `norm` and `freeze_at`.
        official_names: renames the tensors of a published state dict as the authors of the architecture name them.
        weights: published ImageNet weights, under their name in torchvision (a ResNet) or timm; None: there are none.
        is_resnet: whether the normalisation and the frozen parts can be chosen.
        exports_any_size: whether torch.export can trace it for images of any size.
    """

    build: Callable[..., Backbone]
    official_names: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    weights: str | None
    is_resnet: bool = False
    exports_any_size: bool = True


def _resnet(
    block: type[FoldingBasicBlock | FoldingBottleneck],
    depths: tuple[int, int, int, int],
    weights: str | None,
    *,
    width: int = resnet.STANDARD_WIDTH,
) -> BackboneSpec:
    build = partial(resnet.ResNetBackbone, block, depths, width=width)
    return BackboneSpec(build, resnet.official_names, weights, is_resnet=True)


def _swin(
    embed_dim: int, depths: tuple[int, ...], num_heads: tuple[int, ...], window: int, weights: str | None
) -> BackboneSpec:
    build = partial(
        swin.SwinTransformer, embed_dim=embed_dim, depths=depths, num_heads=num_heads, window=window, drop_path=0.2
    )
    # torch.export does not come to an end over an unknown number of windows
    return BackboneSpec(build, swin.official_names, weights, exports_any_size=False)


def _convnext(depths: tuple[int, ...], widths: tuple[int, ...], weights: str | None) -> BackboneSpec:
    return BackboneSpec(partial(convnext.ConvNeXt, depths=depths, widths=widths), convnext.official_names, weights)


BACKBONES: dict[str, BackboneSpec] = {
    "resnet10": _resnet(FoldingBasicBlock, (1, 1, 1, 1), None),
    "resnet10_narrow": _resnet(FoldingBasicBlock, (1, 1, 1, 1), None, width=32),
    "resnet18": _resnet(FoldingBasicBlock, (2, 2, 2, 2), "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet34": _resnet(FoldingBasicBlock, (3, 4, 6, 3), "ResNet34_Weights.IMAGENET1K_V1"),
    "resnet50": _resnet(FoldingBottleneck, (3, 4, 6, 3), "ResNet50_Weights.IMAGENET1K_V1"),
    "resnet101": _resnet(FoldingBottleneck, (3, 4, 23, 3), "ResNet101_Weights.IMAGENET1K_V1"),
    "swin_T_224_1k": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24), 7, "swin_tiny_patch4_window7_224.ms_in1k"),
    "swin_S_224_1k": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24), 7, "swin_small_patch4_window7_224.ms_in1k"),
    "swin_B_224_22k": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32), 7, "swin_base_patch4_window7_224.ms_in22k"),
    "swin_B_384_22k": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32), 12, "swin_base_patch4_window12_384.ms_in22k"),
    "swin_L_224_22k": _swin(192, (2, 2, 18, 2), (6, 12, 24, 48), 7, "swin_large_patch4_window7_224.ms_in22k"),
    "swin_L_384_22k": _swin(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, "swin_large_patch4_window12_384.ms_in22k"),
    "convnext_tiny_22k": _convnext((3, 3, 9, 3), (96, 192, 384, 768), "convnext_tiny.fb_in22k"),
    "convnext_base_22k": _convnext((3, 3, 27, 3), (128, 256, 512, 1024), "convnext_base.fb_in22k"),
    "convnext_large_22k": _convnext((3, 3, 27, 3), (192, 384, 768, 1536), "convnext_large.fb_in22k"),
    "convnext_xlarge_22k": _convnext((3, 3, 27, 3), (256, 512, 1024, 2048), "convnext_xlarge.fb_in22k"),
}


def check_backbone(name: str, *, norm: Norm, freeze_at: int) -> None:
    """Refuse a name that is not in the table, and settings that the backbone does not have.

    Raises:
        ConfigError: naming the knob and what it can be.
    """
    if name not in BACKBONES:
        shown = name[:LONGEST_SHOWN]
        close = get_close_matches(shown, BACKBONES, n=1)
        advice = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"backbone must be one of {list(BACKBONES)}, got {shown!r}{advice}")
    if not BACKBONES[name].is_resnet and (norm != "frozen_bn" or freeze_at):
        raise ConfigError(
            f"backbone_norm {norm!r} and backbone_freeze_at {freeze_at} are for ResNets; {name} needs backbone_norm "
            "'frozen_bn' and backbone_freeze_at 0"
        )


def build_backbone(name: str, *, norm: Norm, freeze_at: int, return_interm_indices: tuple[int, ...]) -> Backbone:
    """Build a freshly initialised backbone; nothing is downloaded.

    Args:
        name: one of `BACKBONES`.
        norm: normalisation of a ResNet; the others have their own and take "frozen_bn".
        freeze_at: leading parts of a ResNet that never train (0 none, 1 stem, 2 stem and layer1); 0 for the others.
        return_interm_indices: consecutive stages ending with 3; 0 is stride 4, 3 is stride 32.

    Raises:
        ConfigError: as `check_backbone`.
        ValueError: other stages.
    """
    check_backbone(name, norm=norm, freeze_at=freeze_at)
    stages = tuple(return_interm_indices)
    if not stages or stages != tuple(range(NUM_STAGES))[-len(stages) :]:
        raise ValueError(f"return_interm_indices must be consecutive and end with 3, such as (1, 2, 3), got {stages}")
    resnet_settings = {"norm": norm, "freeze_at": freeze_at} if BACKBONES[name].is_resnet else {}
    return BACKBONES[name].build(return_interm_indices=stages, **resnet_settings)
