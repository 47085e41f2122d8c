"""How far an exported file is from the network it was made of.

Two computations of the same network round differently, which has two consequences besides small differences:

- Of cells whose scores are equal up to rounding another one may become a query, or two of them may change places. A
  query's learned content belongs to its place, so from there on the two compute different things. Hence a file also
  gives the cells it chose. The choice is checked by its scores, place by place; then PyTorch computes from the same
  cells, and what comes out is compared.
- Of answers whose scores are equal up to rounding another one may be the last that is kept. Hence each detection of the
  file is looked for among all that PyTorch's queries say, and the kept scores are compared in descending order.

Pixels are those of the network's input, for files of any size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.dino import DINO
from models.export.portable import PostProcessing, forced_tokens, recorded_tokens
from models.export.writers import Runner
from models.outputs import DINOOutput, Prediction
from models.postprocess import PostProcess

BOX_BOUND = 1e-3  # pixels
SCORE_BOUND = 1e-4  # on [0, 1]
FAR = 1e12  # in bounds; further than any true distance, and finite
Best = tuple[Tensor, Tensor, Tensor]  # scores, labels, boxes of one image


@dataclass(frozen=True)
class Agreement:
    """What comparing a number of images found."""

    num_images: int
    box: float  # largest deviation of a box's side, pixels of the network's input
    score: float  # largest deviation of a score, of detections and of chosen cells
    num_same_choice: int  # images for which the file chose the same cells in the same order
    num_detections: int
    num_paired: int  # detections within the bounds of one of PyTorch's, each of its own, had cells not been taken over

    @property
    def is_good(self) -> bool:
        """Whether both deviations are below their bounds."""
        return self.box < BOX_BOUND and self.score < SCORE_BOUND


def merge_agreements(parts: Iterable[Agreement]) -> Agreement:
    """The worst of all, and the sums."""
    parts = list(parts)
    return Agreement(
        num_images=sum(p.num_images for p in parts),
        box=max(p.box for p in parts),
        score=max(p.score for p in parts),
        num_same_choice=sum(p.num_same_choice for p in parts),
        num_detections=sum(p.num_detections for p in parts),
        num_paired=sum(p.num_paired for p in parts),
    )


def compare(
    runner: Runner, post_processing: PostProcessing, model: DINO, postprocess: PostProcess, images: Tensor
) -> Agreement:
    """Put one batch through the file and through PyTorch.

    Args:
        runner: runs the file.
        post_processing: of the file.
        model: what it was made of, on the CPU in float32 and in evaluation mode.
        postprocess: of the model.
        images: [B, 3, H, W], normalised.
    """
    sizes = torch.tensor([images.shape[-2:]] * len(images))
    outputs = runner(images, sizes)
    theirs = outputs[:3] if post_processing == "inside" else postprocess.select_top(Prediction(*outputs[:2]), sizes)
    tokens = outputs[-1]
    own, own_tokens = _forward(model, images)
    is_same = (tokens == own_tokens).all(dim=1)
    with forced_tokens(model, tokens):
        given = own if is_same.all() else _forward(model, images)[0]
    everything = PostProcess(2**31, 0.0, _ids(postprocess))
    ours = everything.select_top(postprocess.gated_prediction(given), sizes)
    ours_alone = postprocess.select_top(postprocess.gated_prediction(own), sizes)
    parts = []
    for i in range(len(images)):
        their = _image(theirs, i)
        our = _image(ours, i)
        box, score = _deviations(their, our)
        choice = _choice_deviation(given, own, tokens, i, _ids(postprocess))
        ratios = pair(their, _image(ours_alone, i))[2]
        paired = int((ratios < 1).sum())
        parts.append(Agreement(1, box, max(score, choice), int(is_same[i]), len(their[0]), paired))
    return merge_agreements(parts)


def pair(theirs: Best, ours: Best) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """One to one pairs of detections with the same label that lie together closest.

    Returns:
        positions in `theirs`, positions in `ours`, and the larger of the two deviations in units of its bound.
    """
    rows = []
    columns = []
    ratios = []
    for label in theirs[1].unique():
        a, b = (torch.nonzero(side[1] == label)[:, 0] for side in (theirs, ours))
        box = (theirs[2][a][:, None] - ours[2][b][None]).abs().amax(-1) / BOX_BOUND
        score = (theirs[0][a][:, None] - ours[0][b][None]).abs() / SCORE_BOUND
        cost = torch.maximum(box, score).double().nan_to_num(nan=FAR).clamp(max=FAR).numpy()
        i, j = linear_sum_assignment(cost)
        rows.append(a.numpy()[i])
        columns.append(b.numpy()[j])
        ratios.append(cost[i, j])
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(ratios)


def measure_speed(runner: Runner, model: DINO, images: Tensor, repeats: int) -> tuple[float, float]:
    """CPU seconds per image of PyTorch and of the file, by turns: medians of `repeats` after one that does not count.

    CPU seconds are those of all threads together; other work on the machine changes them little.
    """
    sizes = torch.tensor([images.shape[-2:]] * len(images))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for spent, run in zip(seconds, (lambda: _forward(model, images), lambda: runner(images, sizes)), strict=True):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
    ours, theirs = (median(spent[1:]) / len(images) for spent in seconds)
    return ours, theirs


@torch.inference_mode()
def _forward(model: DINO, images: Tensor) -> tuple[DINOOutput, Tensor]:
    """The network's answer, and the tokens that it chose itself."""
    with recorded_tokens(model) as tokens:
        outputs = model(images, torch.zeros_like(images[:, 0], dtype=torch.bool))
    return outputs, tokens[0]


def _deviations(theirs: Best, ours: Best) -> tuple[float, float]:
    """Largest deviation of a box and of a score; `ours` is everything that PyTorch's queries say, strongest first."""
    rows, columns, _ = pair(theirs, ours)
    if len(rows) < len(theirs[0]):
        return float("inf"), float("inf")  # a label that PyTorch does not know
    box = (theirs[2][rows] - ours[2][columns]).abs()
    score = (theirs[0][rows] - ours[0][columns]).abs()
    kept = (theirs[0] - ours[0][: len(theirs[0])]).abs()
    return _largest(box), max(_largest(score), _largest(kept))


def _choice_deviation(given: DINOOutput, own: DINOOutput, tokens: Tensor, i: int, ids: Sequence[int] | None) -> float:
    """Largest difference, place by place, of the scores of the cells that the file and PyTorch chose."""
    if len(tokens[i].unique()) < len(tokens[i]):
        return float("inf")  # a cell was chosen twice
    scores = [output.proposals.logits[i].sigmoid() for output in (given, own)]
    theirs, ours = (s.amax(-1) if ids is None else s[:, list(ids)].amax(-1) for s in scores)
    return _largest((theirs - ours).abs())


def _largest(deviations: Tensor) -> float:
    return float(deviations.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if deviations.numel() else 0.0


def _image(best: Sequence[Tensor], i: int) -> Best:
    scores, labels, boxes = (column[i] for column in best)
    return scores, labels, boxes


def _ids(postprocess: PostProcess) -> tuple[int, ...] | None:
    return None if postprocess.category_ids is None else tuple(postprocess.category_ids.tolist())
