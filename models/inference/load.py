"""From checkpoints to a detector, by the config inside each checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.build import build_model, speed_up
from models.dino import DINO
from models.inference.detector import Detector, TrainedNetwork, View
from models.losses.criterion import SetCriterion
from models.postprocess import PostProcess
from util.base.console import print_note
from util.config import Config, as_options
from util.config.schema import INFERENCE
from util.detection.fusion import Method, build_merge
from util.distributed.collectives import choose_device_type
from util.training.checkpoints.auto_values import recorded_depth, recorded_map
from util.training.checkpoints.categories import require_same_classes
from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.start import config_inside
from util.training.checkpoints.weights import load_strictly, require_exact, require_fit, weights_of
from util.training.precision import Precision

MERGE_IOU = 0.55  # of the paper on weighted boxes fusion


def load_detector(
    path: str | Path,
    *others: str | Path,
    device: str = "auto",
    flip: bool = False,
    scales: Sequence[int] = (),
    merge: Method = "wbf",
    merge_iou: float = MERGE_IOU,
    options: Iterable[str] | None = None,
    image_depth: int | None = None,
) -> Detector:
    """Load a detector from a checkpoint of this repository, which holds config, category names and weights.

    Averaged weights are used where there are any.

    Args:
        path: the checkpoint.
        others: further checkpoints of an ensemble, of the same categories.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        flip: test-time augmentation by the mirrored image.
        scales: shorter sides of the network's input, pixels; by default the `data_eval_scale` of each config.
        merge: how the detections of several views are fused: `util.detection.fusion`.
        merge_iou: IoU above which the fusion takes two boxes of a class for the same.
        options: KEY=VALUE, knobs of the config that are changed.
        image_depth: bits that the samples of 16-bit files use; None: each file as its header says, else as in the
            training of the (first) checkpoint where its values fit, else as its values say.

    Raises:
        CheckpointError: a file is not a checkpoint, holds no config or category names, is damaged, or has other
            categories; another UserError for an invalid argument.
    """
    on_device = torch.device(choose_device_type(device))
    options = list(options or [])
    contents = {Path(p): load(Path(p)) for p in (path, *others)}
    members = [build_network(p, content, on_device, options) for p, content in contents.items()]
    names = members[0].names
    for member in members[1:]:
        if member.names != names:
            raise CheckpointError(
                f"{member.path}: detects {member.names}, {path} detects {names}; an ensemble needs the same categories"
            )
    views = [
        member.view(scale, is_flipped=is_flipped)
        for member in members
        for scale in (scales or (member.config.data.data_eval_scale,))
        for is_flipped in ((False, True) if flip else (False,))
    ]
    thresholds = [member.threshold for member in members if member.threshold is not None]
    threshold = sum(thresholds) / len(thresholds) if len(thresholds) == len(members) else None
    num_kept = members[0].config.eval.num_select
    merger = build_merge(merge, merge_iou, num_kept)
    depths = {"image_depth": image_depth, "usual_depth": recorded_depth(contents[Path(path)])}
    return Detector(views, merger, names=names, threshold=threshold, **depths)


def build_model_with_weights(
    config: Config, names: Mapping[int, str], content: Mapping[str, Any], path: Path
) -> tuple[DINO, SetCriterion, PostProcess]:
    """Build the network, its loss and its post-processing, with the weights of a checkpoint.

    Shapes are compared first, before any memory is taken for the network.

    Args:
        config: of the network.
        names: the data's categories by id; the checkpoint may have more.
        content: of the checkpoint.
        path: the checkpoint.

    Raises:
        CheckpointError: its weights do not fit.
        CategoryError: its categories have other names.
    """
    require_same_classes(content, names, path)
    ids = content.get("category_ids") or tuple(names)
    classes = recorded_map(content)
    with torch.device("meta"):
        expected = build_model(config, ids, classes)[0].state_dict()
    weights = weights_of(content, path, expected)
    require_exact(weights, path)
    require_fit(expected, weights.tensors, path)
    built = build_model(config, ids, classes)
    load_strictly(built[0], weights.tensors, path)
    if weights.notes and "config" not in content:  # of another program
        print_note(f"{path}: {'; '.join(weights.notes)}")
    return built


@dataclass(frozen=True)
class LoadedNetwork:
    """A checkpoint's network, and what its checkpoint says about it."""

    path: Path
    network: TrainedNetwork
    config: Config
    names: dict[int, str]  # category id -> name
    threshold: float | None  # score threshold of the operating point

    def view(self, scale: int, *, is_flipped: bool) -> View:
        """The network at a scale; the longest side allowed grows with it, so that the aspect ratios stay the same."""
        data = self.config.data
        return View(self.network, scale, round(data.data_aug_max_size * scale / data.data_eval_scale), is_flipped)


def build_network(
    path: Path, content: Mapping[str, Any], device: torch.device, options: Iterable[str]
) -> LoadedNetwork:
    """Build the network of a checkpoint that was read, for inference.

    Args:
        path: the checkpoint.
        content: of it.
        device: where the network will run.
        options: KEY=VALUE, knobs of the config that are changed.

    Raises:
        CheckpointError: the content lacks something, or does not fit its own config.
    """
    lacking = [key for key in ("config", "category_names") if not isinstance(content.get(key), dict)]
    if lacking:
        raise CheckpointError(
            f"{path}: holds no {' and no '.join(lacking)}, as official and older checkpoints do not; continue training "
            "from it with main.py and --pretrain_model_path or --resume, which writes one that does"
        )
    # the backend of the training may be missing here, and compiling takes longer than most predictions
    config = config_inside(path, content, [*as_options(INFERENCE), *options])
    names = {int(category): str(name) for category, name in content["category_names"].items()}
    model, _, postprocess = build_model_with_weights(config, names, content, path)
    speed_up([model], config.speed, device)
    network = TrainedNetwork(model, postprocess, Precision(config.optim.amp, device.type), device)
    return LoadedNetwork(path, network, config, names, (content.get("operating_point") or {}).get("threshold"))
