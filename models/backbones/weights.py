"""Weights of a backbone alone: published ones, or a file in torchvision's, the authors' or timm's naming.

Every weight must arrive with its own shape. Only the classifier of a file is left over, and only the norms after
the returned stages (which detection adds) keep their initialisation. Anything else is refused.
"""

import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torchvision.models import get_weight

from models.backbones.build import BACKBONES
from util.base.errors import UserError
from util.base.text import first_few
from util.training.checkpoints.file import LOAD_ERRORS, read_tensors
from util.training.checkpoints.schema import tensor_problem

NEVER_LOADED = re.compile(  # classifiers and what the network computes itself
    r"(^|\.)(fc|head)\.|^norm\.(weight|bias)$|attn_mask$|relative_position_index$|num_batches_tracked$"
)
ADDED_FOR_DETECTION = re.compile(r"^norm[0-3]\.|relative_position_index$")
NUM_SHOWN = 4


class WeightsError(UserError):
    """A weights file cannot serve the backbone; the message names the file, what is wrong and the fix."""


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a weights file.

    Args:
        source: the file, or "none".
        loaded: how many tensors of the backbone were filled.
        missing: names of the backbone that keep their initialisation.
        unexpected: names of the file that the backbone does not need.
    """

    source: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        if self.source == "none":
            return "the backbone too starts from scratch"
        return (
            f"backbone weights {self.source}: {self.loaded} tensors loaded, "
            f"{len(self.missing)} keep their initialisation{listed(self.missing)}, "
            f"{len(self.unexpected)} of the file not needed{listed(self.unexpected)}"
        )


def load_backbone_weights(backbone: nn.Module, name: str, weights: str) -> LoadedWeights:
    """Fill `backbone`, built by `build_backbone(name, ...)`, in place.

    Args:
        backbone: the network.
        name: its name, one of `models.backbones.build.BACKBONES`.
        weights: "none" leaves the initialisation; "imagenet" takes the published weights, from the cache of
            torch.hub or else by download; anything else is the path of a torch or safetensors file.

    Raises:
        WeightsError: no such weights, no readable file, a download that failed, or tensors that do not fit.
    """
    if weights == "none":
        return LoadedWeights("none", 0, tuple(backbone.state_dict()), ())
    if weights == "imagenet":
        source, content = read_published(backbone, name)
    else:
        source = Path(weights)
        content = read_file(Path(weights))
    return copy_weights(backbone, name, source, tensors_of(source, content))


def read_published(backbone: nn.Module, name: str) -> tuple[Path, object]:
    """The published ImageNet file of a backbone and its content, from the cache of torch.hub or by download."""
    if BACKBONES[name].weights is None:
        raise WeightsError(f"{name} has no published ImageNet weights; set backbone_weights='none' or name a file")
    if any(isinstance(module, nn.GroupNorm) for module in backbone.modules()):
        raise WeightsError(
            f"the published weights of {name} belong to batch norm; "
            "set backbone_norm='frozen_bn', or backbone_weights='none' with 'group_norm'"
        )
    url = published_url(name)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if cached.exists():
        return cached, read_file(cached)
    try:
        content = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (*LOAD_ERRORS, HTTPException) as error:
        if cached.exists():
            raise unreadable(cached, error) from error
        raise WeightsError(
            f"cannot download {url} ({type(error).__name__}: {error}); fetch it on a machine with network and "
            f"place it at {cached}, or name it with --options backbone_weights=PATH"
        ) from error
    return cached, content


def published_url(name: str) -> str:
    """The address of a backbone's weights of the paper's authors, as torchvision or timm has it."""
    weights = BACKBONES[name].weights
    assert weights is not None, f"{name} has no published weights"
    if BACKBONES[name].is_resnet:
        return get_weight(weights).url
    published = get_pretrained_cfg(weights)
    assert published is not None, f"timm does not know {weights}"
    assert isinstance(published.url, str), f"timm has no address of {weights}"
    return published.url


def read_file(path: Path) -> object:
    """The content of a torch or safetensors file; no code of the file is run."""
    if not path.is_file():
        raise WeightsError(f"backbone_weights: {path} is no file; give 'none', 'imagenet' or the path of a file")
    try:
        return read_tensors(path)
    except LOAD_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that is not a file of tensors, or is damaged."""
    reason = str(error).splitlines()[0] if str(error) else "empty"
    return WeightsError(
        f"{path} cannot be read as a file of tensors ({type(error).__name__}: {reason}); "
        "if a download or copy broke off, delete the file and fetch it again"
    )


def tensors_of(path: Path, content: object) -> dict[str, Tensor]:
    """The state dict of a file: the file itself, or its entry `model` or `state_dict`."""
    for entry in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no state dict, neither by itself nor as 'model' or 'state_dict'")
    if problem := next((f"{k} is {p}" for k, v in content.items() if (p := tensor_problem(v))), None):
        raise WeightsError(f"{path} cannot be used: {problem}; a file of weights holds dense tensors of numbers")
    if any(key.removeprefix("module.").startswith(("backbone.", "transformer.")) for key in content):
        raise WeightsError(
            f"{path} is the checkpoint of a whole detector; start from it with --pretrain_model_path, "
            "and give backbone_weights a file of the backbone alone"
        )
    return content


def copy_weights(backbone: nn.Module, name: str, source: Path, tensors: dict[str, Tensor]) -> LoadedWeights:
    """Copy what fits by name; refuse a file that is not of this backbone."""
    expected = backbone.state_dict()
    useful = {key: tensor for key, tensor in tensors.items() if not NEVER_LOADED.search(key)}
    offered = BACKBONES[name].official_names(useful)
    missing = tuple(key for key in expected if key not in offered)
    surplus = [key for key in offered if key not in expected and not ADDED_FOR_DETECTION.search(key)]
    differences = {
        "lacks": [key for key in missing if not ADDED_FOR_DETECTION.search(key)],
        "has besides": surplus,
        "has another shape for": [
            f"{key} {list(tensor.shape)} (not {list(expected[key].shape)})"
            for key, tensor in offered.items()
            if key in expected and tensor.shape != expected[key].shape
        ],
    }
    problems = [f"it {what} {len(keys)} tensors{listed(keys)}" for what, keys in differences.items() if keys]
    if problems:
        raise WeightsError(
            f"{source} does not fit backbone {name}: {'; '.join(problems)}. Give the file of this very network, "
            "of this window size, with batch norm if backbone_norm is 'frozen_bn', or set backbone to what the file is"
        )
    loaded = {key: tensor for key, tensor in offered.items() if key in expected}
    backbone.load_state_dict(loaded, strict=False)
    ignored = tuple(key for key in tensors if key not in useful) + tuple(key for key in offered if key not in expected)
    return LoadedWeights(str(source), len(loaded), missing, ignored)


def listed(names: list[str] | tuple[str, ...]) -> str:
    """The first few names in brackets."""
    return f" ({first_few(names, NUM_SHOWN)})" if names else ""
