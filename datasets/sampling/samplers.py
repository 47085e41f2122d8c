"""An epoch cut into windows, and a window into the micro-batches of the ranks.

A window is the images of one optimizer step. It depends on (seed, epoch) and on the total batch only, never on how
the total is cut into ranks and micro-batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil

from torch.utils.data import Sampler

from datasets.sampling.orders import Order
from util.detection.batch import SampleKey


def eval_indices(num_images: int, rank: int, world_size: int) -> list[int]:
    """The positions that `rank` evaluates. Every image is on exactly one rank; none is repeated for padding."""
    return list(range(rank, num_images, world_size))


class WindowBatchSampler(Sampler[list[SampleKey]]):
    """The micro-batches of one rank, window after window.

    A window of batch_size x accumulation x world_size images is cut into chunks of `batch_size`; chunk c is
    micro-batch c // world_size of rank c % world_size. The last window of an epoch may be short. All ranks still
    take equally many steps: one that has no images for a micro-batch gets a ghost, whose loss counts nothing.
    """

    def __init__(self, order: Order, *, batch_size: int, accumulation: int, rank: int, world_size: int) -> None:
        self.order = order
        self.batch_size = batch_size
        self.window_size = batch_size * accumulation * world_size
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_window = 0

    def set_epoch(self, epoch: int, start_window: int = 0) -> None:
        """Choose the epoch to iterate over, and the window to begin with: a resumed run skips those it has done."""
        self.epoch = epoch
        self.start_window = start_window

    @property
    def num_windows(self) -> int:
        """Optimizer steps of a whole epoch."""
        return ceil(len(self.order) / self.window_size)

    def __len__(self) -> int:
        """Micro-batches of this rank, from `start_window` to the end of the epoch."""
        return sum(self._num_steps(self._images_in(w)) for w in range(self.start_window, self.num_windows))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys = self._keys(self.epoch)
        for w in range(self.start_window, self.num_windows):
            window = keys[w * self.window_size : (w + 1) * self.window_size]
            for step in range(self._num_steps(len(window))):
                start = (step * self.world_size + self.rank) * self.batch_size
                yield window[start : start + self.batch_size] or [window[0]._replace(is_ghost=True)]

    @property
    def account(self) -> str:
        """What an epoch means and how long it is, for the log."""
        last = len(self.order) % self.window_size
        short = f", the last of {last}" if last else ""
        steps = f"{len(self.order)} images in {self.num_windows} steps of {self.window_size}{short}"
        return f"{steps}; {self.order.account}"

    def _keys(self, epoch: int) -> list[SampleKey]:
        """The whole epoch. An image that comes again is told from its first time, so that it comes another way."""
        shown: Counter[int] = Counter()
        keys = []
        for place, index in enumerate(self.order.of_epoch(epoch).tolist()):
            keys.append(SampleKey(epoch, place // self.window_size, index, repeat=shown[index]))
            shown[index] += 1
        return keys

    def _images_in(self, window: int) -> int:
        return min(self.window_size, len(self.order) - window * self.window_size)

    def _num_steps(self, num_images: int) -> int:
        """Micro-batches that every rank needs for a window of so many images."""
        return ceil(num_images / (self.batch_size * self.world_size))
