"""Split an epoch into windows, and a window into the micro-batches of the ranks.

A window is the images of one optimizer step. It depends on (seed, epoch) and on the total batch only, never on how
the total is split into ranks and micro-batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil

from torch.utils.data import Sampler

from datasets.sampling.orders import SamplingOrder
from util.detection.batch import SampleKey


def eval_indices(num_images: int, rank: int, world_size: int) -> list[int]:
    """Positions that `rank` evaluates: every image on exactly one rank, none repeated for padding."""
    return list(range(rank, num_images, world_size))


class WindowBatchSampler(Sampler[list[SampleKey]]):
    """The micro-batches of one rank, window after window.

    A window of batch_size x accumulation x world_size images is split into chunks of `batch_size`; chunk c is
    micro-batch c // world_size of rank c % world_size. The last window of an epoch may be short. All ranks still
    take equally many steps: a rank without images for a micro-batch gets a ghost, whose loss has no weight.
    """

    def __init__(self, order: SamplingOrder, *, batch_size: int, accumulation: int, rank: int, world_size: int) -> None:
        self.order = order
        self.batch_size = batch_size
        self.window_size = batch_size * accumulation * world_size
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_window = 0

    def set_epoch(self, epoch: int, start_window: int = 0) -> None:
        """Choose the epoch to iterate over and its first window: a resumed run skips the finished ones."""
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
    def description(self) -> str:
        """What an epoch contains and how long it is, for the log."""
        last = len(self.order) % self.window_size
        short = f", the last of {last}" if last else ""
        steps = f"{len(self.order)} images in {self.num_windows} steps of {self.window_size}{short}"
        return f"{steps}; {self.order.description}"

    def _keys(self, epoch: int) -> list[SampleKey]:
        """Keys of the whole epoch. Repetitions of an image are numbered, so that each is augmented differently."""
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
