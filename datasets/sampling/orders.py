"""Sampling orders: which images an epoch shows and in which order, as pure functions of (seed, epoch).

They do not depend on how a window is split into ranks and micro-batches, nor on earlier epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from util.base.errors import DataError
from util.base.seed import derive_rng


class SamplingOrder(Protocol):
    """The sampling order of every epoch."""

    def __len__(self) -> int:
        """Number of images in an epoch, repetitions counted; the same for every epoch."""

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """[len]: positions in the split, in sampling order."""

    @property
    def description(self) -> str:
        """What an epoch contains, for the log."""


@dataclass(frozen=True)
class ShuffledOrder:
    """Every image once, in random order."""

    num_images: int
    seed: int

    def __len__(self) -> int:
        return self.num_images

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """A permutation of the split."""
        return derive_rng(self.seed, "order", epoch).permutation(self.num_images)

    @property
    def description(self) -> str:
        """What an epoch contains, for the log."""
        return "every image once"


@dataclass(frozen=True, eq=False)
class PositiveFractionOrder:
    """As many images as the split has, and in every window at least a fraction of them with boxes.

    A window of n images has at least ceil(fraction * n) with boxes, a short last one too. Where the split has enough of
    them, every image comes once. Where it has too few, they are repeated, pass after pass, each in a new order; of the
    other images an epoch shows only some, each once, and the next epoch continues with the rest.

    Args:
        has_boxes: [I] for every image of the split.
        fraction: of images with boxes, above 0.
        window_size: images of an optimizer step.
        seed: root of all randomness.

    Raises:
        DataError: no image has a box.
    """

    has_boxes: NDArray[np.bool_]
    fraction: float
    window_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.has_boxes.any():
            raise DataError(
                f"positive_fraction {self.fraction:g} needs images with boxes in every step, but none of the "
                f"{len(self)} training images has one; set positive_fraction=0, or choose another train_list"
            )

    def __len__(self) -> int:
        return len(self.has_boxes)

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Every window first gets its share of images with boxes; all other places are filled at random."""
        rng = derive_rng(self.seed, "positive share", epoch)
        images = np.flatnonzero(self.has_boxes)
        num = self._num_with_boxes
        passes = [rng.permutation(images) for _ in range(ceil(num / len(images)))]
        with_boxes = np.concatenate(passes)[:num]
        without = np.flatnonzero(~self.has_boxes)
        without = without[sample_evenly(len(without), len(self) - num, epoch, self.seed)]
        shares = self._shares
        others = self._sizes - self._shares
        reserved = shares.sum()
        rest = rng.permutation(np.concatenate([with_boxes[reserved:], without]))
        windows = np.arange(len(shares))
        of_place = np.concatenate([np.repeat(windows, shares), np.repeat(windows, others)])
        by_window = np.lexsort((rng.random(len(self)), of_place))
        return np.concatenate([with_boxes[:reserved], rest])[by_window]

    @property
    def description(self) -> str:
        """What an epoch contains, for the log."""
        share = ceil_share(self.fraction, self.window_size)
        text = f"at least {share} of every {self.window_size} images with boxes (positive_fraction {self.fraction:g}): "
        images = int(self.has_boxes.sum())
        num = self._num_with_boxes
        if num == images:
            return text + "every image once"
        fewest = num // images
        most = ceil(num / images)
        times = f"{fewest} times" if fewest == most else f"{fewest} or {most} times"
        return (
            f"{text}each of the {images} images with boxes {times}; of the {len(self) - images} without "
            f"{len(self) - num} once, the next epoch continues with the others"
        )

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """[W]: images of each window."""
        whole, rest = divmod(len(self), self.window_size)
        return np.array([self.window_size] * whole + [rest] * (rest > 0), dtype=np.int64)

    @cached_property
    def _shares(self) -> NDArray[np.int64]:
        """[W]: places of each window that are reserved for images with boxes."""
        return np.array([ceil_share(self.fraction, size) for size in self._sizes.tolist()], dtype=np.int64)

    @property
    def _num_with_boxes(self) -> int:
        """Places of an epoch that show an image with boxes."""
        return max(int(self._shares.sum()), int(self.has_boxes.sum()))


@dataclass(frozen=True, eq=False)
class RepeatFactorOrder:
    """Repeat factor sampling: images of rare categories more often (LVIS, Gupta et al., arXiv 1908.03195, 3.3).

    An image with factor 2.3 comes twice in every epoch and three times in 30 % of them. Every epoch is equally long:
    the sum of the factors, rounded down.

    Args:
        factors: [I] how often each image comes on average, at least 1; see `repeat_factors`.
        factors_text: describes them, for the log.
        seed: root of all randomness.
    """

    factors: NDArray[np.float64]
    factors_text: str
    seed: int

    def __len__(self) -> int:
        return int(np.floor(self.factors).sum()) + self._num_extra

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Systematic sampling by the fractional parts decides the extra images, so that their number is constant."""
        rng = derive_rng(self.seed, "repeat factor", epoch)
        times = np.floor(self.factors).astype(np.int64)
        mixed = rng.permutation(len(times))
        heights = (self.factors - times)[mixed].cumsum()
        if self._num_extra:
            marks = (rng.random() + np.arange(self._num_extra)) * heights[-1] / self._num_extra
            np.add.at(times, mixed[np.searchsorted(heights, marks, side="right").clip(max=len(times) - 1)], 1)
        return rng.permutation(np.repeat(np.arange(len(times)), times))

    @property
    def description(self) -> str:
        """What an epoch contains, for the log."""
        return f"every image once, those of rare categories more often ({self.factors_text})"

    @cached_property
    def _num_extra(self) -> int:
        # a sum that is whole may come out a rounding error below
        return int((self.factors - np.floor(self.factors)).sum() + 1e-9)


def ceil_share(fraction: float, size: int) -> int:
    """ceil(fraction * size) without rounding errors: 0.7 of 10 is 7, although 0.7 * 10 > 7 in floats."""
    return ceil(fraction * size - 1e-9)


def sample_evenly(num: int, count: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Sample `count` of `num` without replacement, so that over epochs the counts differ by at most 1.

    The epochs read one endless sequence of passes, each pass a permutation of all. Where an epoch extends into a second
    pass, the positions that it has shown in the first one come there after its end.
    """
    if not count:
        return np.zeros(0, dtype=np.int64)
    first, start = divmod(epoch * count, num)
    order = _permutation(num, seed, 0)
    for number in range(1, first + 1):
        order = _next_pass(order, count, number, seed)
    taken = order[start : start + count]
    if len(taken) == count:
        return taken
    return np.concatenate([taken, _next_pass(order, count, first + 1, seed)[: count - len(taken)]])


def _next_pass(order: NDArray[np.int64], count: int, number: int, seed: int) -> NDArray[np.int64]:
    """Pass `number`, which follows `order`; an epoch across both has shown the last `num_shown` of `order`."""
    num_shown = number * len(order) % count
    following = _permutation(len(order), seed, number)
    if not num_shown:
        return following
    fresh = following[~np.isin(following, order[len(order) - num_shown :])][: count - num_shown]
    return np.concatenate([fresh, following[~np.isin(following, fresh)]])


def _permutation(num: int, seed: int, number: int) -> NDArray[np.int64]:
    return derive_rng(seed, "pass without boxes", number).permutation(num)


def category_factors(
    image: NDArray[np.int64], label: NDArray[np.int64], num_images: int, threshold: float
) -> dict[int, float]:
    """Repeat factor of each category: max(1, sqrt(threshold / f)), f the share of images that have the category.

    Args:
        image, label: [N] the image's position and the category of every box.
        num_images: of the split.
        threshold: share of images below which a category is rare.
    """
    pairs = np.unique(np.stack([image, label], axis=1), axis=0)
    labels, counts = np.unique(pairs[:, 1], return_counts=True)
    factors = np.maximum(1.0, np.sqrt(threshold * num_images / counts))
    return dict(zip(labels.tolist(), factors.tolist(), strict=True))


def repeat_factors(
    image: NDArray[np.int64], label: NDArray[np.int64], num_images: int, of_category: dict[int, float]
) -> NDArray[np.float64]:
    """[I]: repeat factor of each image, the largest one of its categories; 1 without boxes."""
    factors = np.ones(num_images)
    np.maximum.at(factors, image, np.array([of_category[k] for k in label.tolist()]))
    return factors
