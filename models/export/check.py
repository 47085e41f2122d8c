"""How far an exported file deviates from the network it was made of.

Two computations of the same network round differently, which has two consequences besides small differences:

- Of cells whose scores are equal up to rounding, another one may become a query, or two of them may change places. A
  query's learned content belongs to its place, so from there on the two compute different things. Hence a file also
  outputs the cells it chose. The choice is checked by its scores, place by place; then PyTorch computes from the same
  cells, and the results are compared.
- Of detections whose scores are equal up to rounding, another one may be the last that is kept. Hence each detection of
  the file is matched with all that PyTorch's queries predict, and the kept scores are compared in descending order.

Pixels are those of the network's input, for files of any size.
"""

from __future__ import annotations

import copy
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
TopK = tuple[Tensor, Tensor, Tensor]  # scores, labels, boxes of one image


@dataclass(frozen=True)
class Agreement:
    """How far the file and PyTorch agree on a number of images."""

    num_images: int
    box: float  # largest deviation of a box's side, pixels of the network's input
    score: float  # largest deviation of a score, of detections and of chosen cells
    num_same_choice: int  # images for which the file chose the same cells in the same order
    num_detections: int
    num_paired: int  # detections within the bounds of one of PyTorch's one to one, without the forced choice

    @property
    def is_good(self) -> bool:
        """Whether both deviations are below their bounds."""
        return self.box < BOX_BOUND and self.score < SCORE_BOUND


def merge_agreements(parts: Iterable[Agreement]) -> Agreement:
    """The largest deviations, and the sums of the counts."""
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
    """Compare the file with PyTorch on one batch.

    Args:
        runner: runs the file.
        post_processing: of the file.
        model: what it was made of, on the CPU in float32 and in evaluation mode.
        postprocess: of the model.
        images: [B, 3, H, W], normalised.
    """
    sizes = torch.tensor([images.shape[-2:]] * len(images))
    outputs = runner(images, sizes)
    exported = outputs[:3] if post_processing == "inside" else postprocess.select_top(Prediction(*outputs[:2]), sizes)
    tokens = outputs[-1]
    own, own_tokens = _forward(model, images)
    is_same = (tokens == own_tokens).all(dim=1)
    with forced_tokens(model, tokens):
        given = own if is_same.all() else _forward(model, images)[0]
    keep_all = copy.copy(postprocess)
    keep_all.num_select = 2**31
    reference = keep_all.select_top(postprocess.gated_prediction(given), sizes)
    unforced = postprocess.select_top(postprocess.gated_prediction(own), sizes)
    parts = []
    for i in range(len(images)):
        detections = _image(exported, i)
        box, score = _deviations(detections, _image(reference, i))
        choice = _choice_deviation(given, own, tokens, i, postprocess.category_ids)
        ratios = pair(detections, _image(unforced, i))[2]
        paired = int((ratios < 1).sum())
        parts.append(Agreement(1, box, max(score, choice), int(is_same[i]), len(detections[0]), paired))
    return merge_agreements(parts)


def pair(exported: TopK, reference: TopK) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Match detections of the same label one to one, by the least deviation.

    Returns:
        positions in `exported`, positions in `reference`, and the larger of the two deviations in units of its bound.
    """
    rows = []
    columns = []
    ratios = []
    for label in exported[1].unique():
        a, b = (torch.nonzero(side[1] == label)[:, 0] for side in (exported, reference))
        box = (exported[2][a][:, None] - reference[2][b][None]).abs().amax(-1) / BOX_BOUND
        score = (exported[0][a][:, None] - reference[0][b][None]).abs() / SCORE_BOUND
        cost = torch.maximum(box, score).double().nan_to_num(nan=FAR).clamp(max=FAR).numpy()
        i, j = linear_sum_assignment(cost)
        rows.append(a.numpy()[i])
        columns.append(b.numpy()[j])
        ratios.append(cost[i, j])
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(ratios)


def measure_speed(runner: Runner, model: DINO, images: Tensor, repeats: int) -> tuple[float, float]:
    """CPU seconds per image of PyTorch and of the file, run alternately: medians of `repeats` after a warm-up.

    CPU seconds are those of all threads together; other work on the machine changes them little.
    """
    sizes = torch.tensor([images.shape[-2:]] * len(images))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for spent, run in zip(seconds, (lambda: _forward(model, images), lambda: runner(images, sizes)), strict=True):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
    pytorch, file = (median(spent[1:]) / len(images) for spent in seconds)
    return pytorch, file


@torch.inference_mode()
def _forward(model: DINO, images: Tensor) -> tuple[DINOOutput, Tensor]:
    """The network's output, and the tokens that it chose itself."""
    with recorded_tokens(model) as tokens:
        outputs = model(images, torch.zeros_like(images[:, 0], dtype=torch.bool))
    return outputs, tokens[0]


def _deviations(exported: TopK, reference: TopK) -> tuple[float, float]:
    """Largest deviation of a box and of a score; `reference` is all that PyTorch's queries predict."""
    rows, columns, _ = pair(exported, reference)
    if len(rows) < len(exported[0]):
        return float("inf"), float("inf")  # a label that PyTorch does not predict
    box = (exported[2][rows] - reference[2][columns]).abs()
    score = (exported[0][rows] - reference[0][columns]).abs()
    kept = (exported[0] - reference[0][: len(exported[0])]).abs()
    return _largest(box), max(_largest(score), _largest(kept))


def _choice_deviation(given: DINOOutput, own: DINOOutput, tokens: Tensor, i: int, ids: Tensor | None) -> float:
    """Largest difference, place by place, of the scores of the cells that the file and PyTorch chose."""
    if len(tokens[i].unique()) < len(tokens[i]):
        return float("inf")  # a cell was chosen twice
    scores = [output.proposals.logits[i].sigmoid() for output in (given, own)]
    exported, reference = (s.amax(-1) if ids is None else s[:, ids].amax(-1) for s in scores)
    return _largest((exported - reference).abs())


def _largest(deviations: Tensor) -> float:
    return float(deviations.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if deviations.numel() else 0.0


def _image(best: Sequence[Tensor], i: int) -> TopK:
    scores, labels, boxes = (column[i] for column in best)
    return scores, labels, boxes
