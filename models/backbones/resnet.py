"""ResNet feature maps from torchvision's networks, with frozen batch norm or with group norm."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from models.backbones.base import Backbone

Norm = Literal["frozen_bn", "group_norm"]
NUM_STAGES = 4
GROUPS = 32
STANDARD_WIDTH = 64


class ResNetBackbone(Backbone):
    """A ResNet (He et al. 2016; the stride sits on the 3x3 convolution) without its classifier.

    The network stands under `body`, so its names are torchvision's: body.conv1, body.bn1, body.layer1 ... body.layer4.

    Args:
        block: torchvision's BasicBlock or Bottleneck.
        depths: blocks of each of the four stages.
        norm: "frozen_bn" for pretrained weights; "group_norm" for training from scratch, each block starting as
            the identity.
        freeze_at: how many leading parts never train: 0 none, 1 the stem, 2 stem and layer1, ... 5 all.
        return_interm_indices: stages handed on, rising; 0 is stride 4, 3 is stride 32.
        width: channels of the stem and of layer1's 3x3 convolutions, doubled by each further stage.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        norm: Norm,
        freeze_at: int,
        return_interm_indices: tuple[int, ...],
        width: int = STANDARD_WIDTH,
    ):
        super().__init__()
        from_scratch = norm == "group_norm"
        self.body = NarrowableResNet(
            block, depths, width=width, zero_init_residual=from_scratch, norm_layer=norm_layer(norm)
        )
        del self.body.avgpool, self.body.fc
        self.return_interm_indices = return_interm_indices
        self.num_channels = tuple(width * block.expansion * 2**stage for stage in return_interm_indices)
        freeze_leading_parts(self.body, freeze_at)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to one map [B, C, ceil(H / stride), ceil(W / stride)] per returned stage."""
        body = self.body
        x = body.maxpool(body.relu(normed(body.conv1, body.bn1, images)))
        maps = []
        for stage in range(NUM_STAGES):
            x = getattr(body, f"layer{stage + 1}")(x)
            if stage in self.return_interm_indices:
                maps.append(x)
        return maps


class NarrowableResNet(ResNet):
    """torchvision's network with all widths scaled, which its constructor does not offer."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], *, width: int, **kwargs: Any):
        self._width = width
        super().__init__(block, list(depths), num_classes=1, **kwargs)
        if width != STANDARD_WIDTH:
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(width)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == STANDARD_WIDTH:  # the first stage takes what the stem gives
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // STANDARD_WIDTH, *args, **kwargs)


class FoldingBasicBlock(BasicBlock):
    """torchvision's block; its frozen norms are folded into the convolutions where `is_fast` asks for it."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        out = self.relu(normed(self.conv1, self.bn1, x))
        out = normed(self.conv2, self.bn2, out)
        return self.relu(out.add_(x if self.downsample is None else normed(self.downsample[0], self.downsample[1], x)))


class FoldingBottleneck(Bottleneck):
    """torchvision's bottleneck block, for ResNet-50 and deeper, with the same folding."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        out = self.relu(normed(self.conv1, self.bn1, x))
        out = self.relu(normed(self.conv2, self.bn2, out))
        out = normed(self.conv3, self.bn3, out)
        return self.relu(out.add_(x if self.downsample is None else normed(self.downsample[0], self.downsample[1], x)))


def normed(convolution: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Convolution and norm; one convolution with scaled weights and a bias where the norm is frozen and fast."""
    if not (isinstance(norm, FrozenBatchNorm2d) and norm.is_fast):
        return norm(convolution(x))
    scale, shift = norm.scale_and_shift()
    weight = convolution.weight * scale[:, None, None, None]
    return functional.conv2d(x, weight, shift, convolution.stride, convolution.padding)


class FrozenBatchNorm2d(TorchvisionFrozenBatchNorm2d):
    """y = x * s + (bias - mean * s) with s = weight / sqrt(var + 1e-5); all four are buffers.

    The result has the type of x: under autocast the float32 buffers would otherwise double the memory of every map.
    """

    is_fast = False

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """s and bias - mean * s, [C] each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same, computed in the wider type of x and the buffers and rounded once."""
        return super().forward(x).to(x.dtype)


def official_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in torchvision's naming, under the names of this module."""
    return {f"body.{key.removeprefix('body.')}": tensor for key, tensor in tensors.items()}


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """The constructor of a normalisation, a function of the number of channels."""
    return FrozenBatchNorm2d if norm == "frozen_bn" else group_norm


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, fewer where that leaves less than 4 channels to a group."""
    return nn.GroupNorm(min(GROUPS, channels // 4), channels)


def freeze_leading_parts(body: ResNet, freeze_at: int) -> None:
    """Switch off the gradients of the first `freeze_at` of: stem, layer1, layer2, layer3, layer4."""
    parts = [(body.conv1, body.bn1), (body.layer1,), (body.layer2,), (body.layer3,), (body.layer4,)]
    for modules in parts[:freeze_at]:
        for module in modules:
            module.requires_grad_(False)
