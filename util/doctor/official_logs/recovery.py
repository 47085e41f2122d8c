"""Recover metrics from logs of the official DINO code, whose averages include steps without boxes.

The official criterion (IDEA-Research/DINO, models/dino/dino.py) logs, for a batch on one GPU and averaged over batches:

- class_error: 100 less the percentage of matched queries with the right best class; exactly 100 without any box;
- cardinality_error: |queries whose best class is not the last one - boxes|. With sigmoid heads nearly every query is
  counted, so it is num_queries - boxes per image;
- the same of the denoising queries: 2 dn_number - boxes where the batch has a box, 0 where it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import gammaln, xlog1py, xlogy

from util.base.numbers import number
from util.doctor.official_logs.console import PREFIXES, RawEpoch, finite_value
from util.runlog.class_skill import FocalSettings, best_constant_loss

OFFICIAL = {"dn_number": 100, "batch_size": 1, "world_size": 1, "focal_gamma": 2.0}  # gamma is fixed in its code
FEW_EMPTY = 0.3  # share of steps without boxes up to which class_error still describes the network
CROWDED = 3  # boxes per image with boxes, from which the denoising queries are fewer than 2 dn_number

ROUND_NUMBERS = (100, 300, 500, 600, 900, 1000, 1200, 1500, 2000, 3000)  # of queries
AGREEMENT = 0.05  # relative difference of two largest cardinality errors that both counted every query
POINTS = 0.5  # of class_error: epochs differ by crops that lose a box
FEW_CLASSES_MIX = (0.8, 0.2)  # assumed shares of the boxes: one common class, one rare one


@dataclass(frozen=True)
class Recovered:
    """Values recovered from the averages of a log; None where that is not possible."""

    num_queries: int | None
    boxes_per_image: float | None
    share_of_steps: float | None  # training steps with at least one box
    share_of_images: float | None  # the same of images
    test_boxes_per_image: float | None
    test_share_of_images: float | None
    lowest_class_error: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def boxes_per_positive(self) -> float | None:
        """Boxes per training image with boxes."""
        return self.boxes_per_image / self.share_of_images if self.boxes_per_image and self.share_of_images else None

    @property
    def is_class_error_known(self) -> bool:
        """Whether class_error as logged describes the network: steps without boxes are few."""
        if self.lowest_class_error is not None and self.lowest_class_error < 100 * FEW_EMPTY:
            return True
        return self.share_of_steps is not None and 1 - self.share_of_steps <= FEW_EMPTY

    def class_error(self, logged: float) -> float | None:
        """Over steps with boxes, in percent."""
        if self.share_of_steps is None or self.share_of_images is None or self.boxes_per_image is None:
            return logged if self.is_class_error_known else None
        is_crowded = self.boxes_per_image > CROWDED * self.share_of_images  # the share is then a little low
        if is_crowded and self.is_class_error_known:
            return logged
        return class_error_with_boxes(logged, self.share_of_steps)


def recover(epochs: Sequence[RawEpoch], settings: Mapping[str, Any]) -> Recovered:
    """Recover from all epochs together; one that was cut off counts only where there is no other."""
    values = [e.values for e in epochs if e.is_whole] or [e.values for e in epochs]
    used = OFFICIAL | {k: v for k, v in settings.items() if k in OFFICIAL and k != "focal_gamma"}
    errors = {part: _cardinality(values, part) for part in ("train", "test")}
    denoising = _cardinality(values, "train", is_denoising=True)
    num_queries = settings.get("num_queries") or guess_num_queries(max([*errors["train"], *errors["test"], 0]))
    train, test = (boxes_per_image(num_queries, e) if num_queries else None for e in errors.values())
    lowest = _least(values, ("train_class_error",))
    steps = images = test_share = None
    if train is not None and denoising:
        steps = share_of_steps(max(denoising), train, used["dn_number"], lowest, used["batch_size"])
        images = None if steps is None else _images(steps, train, used["batch_size"])
    if images and train:
        lowest_test = _least(values, ("test_class_error", "ema_test_class_error"))
        tried = (share_of_test_images(boxes, train / images, lowest_test) for boxes in (test, train))
        test_share = next((share for share in tried if share is not None), None)  # else as many as in training
    return Recovered(num_queries, train, steps, images, test, test_share, lowest, {**settings, **used})


def guess_num_queries(largest: float) -> int | None:
    """The smallest usual number of queries that a cardinality error allows; None where none lies within a tenth."""
    fits = [n for n in ROUND_NUMBERS if 0.9 * n <= largest <= n]
    return fits[0] if fits else None


def boxes_per_image(num_queries: int, cardinality_errors: Sequence[float]) -> float | None:
    """Boxes per image from cardinality errors of several layers and epochs over the same images.

    No error exceeds num_queries - boxes, so the largest bounds the boxes from above; it is reached where every query is
    counted, which shows in two errors being alike.

    Returns:
        None where no two of them are alike, or the head counts too few queries.
    """
    boxes = sorted(num_queries - error for error in cardinality_errors)[:2]
    if not boxes or boxes[0] < -1e-6 or boxes[0] > 0.1 * num_queries:
        return None
    is_reached = boxes[-1] <= boxes[0] * (1 + AGREEMENT) + 1e-3
    return max(boxes[0], 0.0) if is_reached else None


def share_of_steps(
    denoising_error: float, boxes: float, dn_number: int, lowest_class_error: float | None, batch_size: int = 1
) -> float | None:
    """The share of steps with at least one box.

    share = (denoising_error + boxes) / (2 dn_number), a little low where images have many boxes: the denoising queries
    are 2 M floor(dn_number / M) for M boxes.

    Args:
        denoising_error: the largest `cardinality_error_dn_unscaled`.
        boxes: per image.
        dn_number: as configured.
        lowest_class_error: of all epochs, in percent; None where the log has none.
        batch_size: images of a step on one GPU.

    Returns:
        None where it contradicts the rest: more than all, less than one box per image with boxes, or more empty steps
        than the class error allows.
    """
    if dn_number < 50:  # the official code then makes 2 dn_number groups, whatever the boxes
        return None
    share = (denoising_error + boxes) / (2 * dn_number) if denoising_error > 0 else 0.0
    if (share > 0) != (boxes > 0) or share > 1.02:
        return None
    share = min(share, 1.0)
    if lowest_class_error is not None and 100 * (1 - share) > lowest_class_error + POINTS:
        return None
    is_plausible = boxes >= 0.98 * share_of_images(share, batch_size)
    return share if is_plausible else None


def share_of_images(steps: float, batch_size: int) -> float:
    """The share of images with boxes when `batch_size` images drawn at random make a step."""
    return 1 - (1 - steps) ** (1 / batch_size)


def class_error_with_boxes(class_error: float, share: float) -> float | None:
    """The mean class error over steps with boxes: class_error = 100 (1 - share) + share * that."""
    if share <= 0:
        return None
    return max((class_error - 100 * (1 - share)) / share, 0.0)


def share_of_test_images(
    boxes: float | None, per_image_with_boxes: float, lowest_class_error: float | None
) -> float | None:
    """The share of test images with boxes, if those hold as many boxes each as in training.

    Returns:
        None where `boxes` per test image is unknown, or the share would leave more empty images than the class error
        of the test allows.
    """
    if boxes is None:
        return None
    share = min(boxes / per_image_with_boxes, 1.0)
    if lowest_class_error is not None and 100 * (1 - share) > lowest_class_error + POINTS:
        return None
    return share


def class_mix(num_classes: int | None) -> tuple[float, ...]:
    """Assumed shares of boxes by class: 80 and 20 % up to four classes, else the k-th class has 1/k of the first.

    With more classes, or more even ones, the best constant is worse: with too few assumed the skill is a lower bound.
    """
    if num_classes is None or num_classes <= 4:
        return FEW_CLASSES_MIX
    weights = [1 / k for k in range(1, num_classes)]
    return tuple(w / sum(weights) for w in weights)


@lru_cache(maxsize=64)
def constant_loss(
    share: float,
    per_image: float,
    focal: FocalSettings,
    mix: tuple[float, ...],
    batch_size: int = 1,
    world_size: int = 1,
) -> float:
    """The least `loss_ce` of a predictor that ignores the image, in the official units: a mean over steps.

    A step's loss is divided by max(1, boxes of all ranks / ranks); of its images, a binomial number has boxes.

    Args:
        share: of images with boxes.
        per_image: boxes per image with boxes.
        focal: alpha, gamma, queries.
        mix: shares of the boxes by class.
        batch_size: images of a step on one GPU.
        world_size: GPUs.
    """
    images = batch_size * world_size
    k = np.arange(images + 1)
    ways = gammaln(images + 1) - gammaln(k + 1) - gammaln(images - k + 1)
    probability = np.exp(ways + xlogy(k, share) + xlog1py(images - k, -share))
    boxes = k * per_image / world_size
    denominator = np.maximum(boxes, 1.0)
    positives = float((probability * boxes / denominator).sum())
    slots = float((probability * batch_size * focal.num_queries / denominator).sum())
    return best_constant_loss([positives * part for part in mix], slots, focal)


def _images(steps: float, boxes: float, batch_size: int) -> float:
    """The share of images with boxes; with many boxes each, the share of steps is too low to take the root."""
    return steps if boxes > CROWDED * steps else share_of_images(steps, batch_size)


def _cardinality(values: Iterable[Mapping[str, Any]], part: str, *, is_denoising: bool = False) -> list[float]:
    """Cardinality errors of all layers; a test has those of the model and of the EMA, on the same images."""
    heads = tuple(f"{prefix}cardinality_error" for prefix in PREFIXES if prefix.endswith(f"{part}_"))
    found = []
    for row in values:
        for key, value in row.items():
            if key.startswith(heads) and ("_dn" in key) == is_denoising and number(value) is not None:
                found.append(float(value))
    return found


def _least(values: Iterable[Mapping[str, Any]], names: Iterable[str]) -> float | None:
    found = [v for row in values for name in names if (v := finite_value(row, name)) is not None]
    return min(found, default=None)
