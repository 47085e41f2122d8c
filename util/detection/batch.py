"""Samples, batches and windows: the data that travels from the loader through training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from util.base.seed import derive_seed
from util.detection.pixels import normalised

# boxes [n, 4] cxcywh in [0, 1] of the unpadded image - labels [n] class indices - image_id []
# orig_size [2] (h, w) pixels of the file - size [2] (h, w) pixels of the network input - noise_seed [] (training only)
Target = dict[str, Tensor]
# What only the host asks for: on a device each question would have to wait for all that it still has to do.
HOST_KEYS = {"image_id", "noise_seed"}


class SampleKey(NamedTuple):
    """Identifies a sample by image, epoch and step: all that its augmentation may depend on, besides the seed.

    The step is for what its images have in common; what is an image's own follows from epoch, position and repeat.
    """

    epoch: int
    window: int  # optimizer step of the epoch, from 0 on
    position: int  # of the image in its split
    is_ghost: bool = False
    repeat: int = 0  # how often the epoch has shown the image before


@dataclass(frozen=True)
class Sample:
    """One image in the size of the network input, with its target."""

    image: Tensor  # [1 or 3, h, w] 8-bit: grey, or red, green, blue
    target: Target
    is_ghost: bool = False  # in the forward pass but not in the loss


@dataclass(frozen=True)
class Batch:
    """One forward pass: images padded to a common size, and their targets.

    A loader yields 8-bit pixels, a twelfth of the bytes where all are grey; `to` normalises them, and leaves images in
    floating point unchanged.
    """

    images: Tensor  # [B, 1 or 3, H, W] 8-bit, or [B, 3, H, W] normalised; zero on padding
    mask: Tensor  # [B, H, W], True on padding
    targets: list[Target]
    is_ghost: bool = False  # of a rank that ran out of images, which takes part without a loss

    @property
    def num_boxes(self) -> int:
        """Ground truth boxes on all images."""
        return 0 if self.is_ghost else sum(len(t["labels"]) for t in self.targets)

    @property
    def num_images(self) -> int:
        """Images that count."""
        return 0 if self.is_ghost else len(self.targets)

    @property
    def most_boxes(self) -> int:
        """The largest number of ground truth boxes on one image."""
        return 0 if self.is_ghost else max((len(t["labels"]) for t in self.targets), default=0)

    @property
    def seed(self) -> int:
        """Seed of the random draws inside the network in training (dropout, stochastic depth), from the images."""
        return derive_seed("layers", int(self.targets[0]["noise_seed"]))

    def to(self, device: torch.device) -> Batch:
        """A copy on `device`, its images normalised; `image_id` and `noise_seed` stay on the host."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        images = move(self.images)
        mask = move(self.mask)
        if images.dtype == torch.uint8:
            images = normalised(images, mask)
        targets = [{k: v if k in HOST_KEYS else move(v) for k, v in t.items()} for t in self.targets]
        return replace(self, images=images, mask=mask, targets=targets)

    def __getstate__(self) -> dict[str, object]:
        """Targets travel between processes by value: shared memory for each small tensor would cost far more."""
        return {**vars(self), "targets": [{k: v.numpy() for k, v in t.items()} for t in self.targets]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the tensors of the targets."""
        targets = [{k: torch.from_numpy(v) for k, v in t.items()} for t in state["targets"]]
        vars(self).update({**state, "targets": targets})

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; the DataLoader calls this by name."""
        targets = [{k: v.pin_memory() for k, v in t.items()} for t in self.targets]
        return replace(self, images=self.images.pin_memory(), mask=self.mask.pin_memory(), targets=targets)


@dataclass(frozen=True)
class Window:
    """The batches of one optimizer step on this rank. Their losses share one denominator."""

    batches: list[Batch]

    @property
    def num_boxes(self) -> int:
        """Ground truth boxes in all batches."""
        return sum(b.num_boxes for b in self.batches)

    @property
    def num_images(self) -> int:
        """Images in all batches."""
        return sum(b.num_images for b in self.batches)

    @property
    def most_boxes(self) -> int:
        """The largest number of ground truth boxes on one image."""
        return max(b.most_boxes for b in self.batches)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to `device` without synchronising (pinned, non-blocking)."""
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


def windows(loader: Iterable[Batch], size: int) -> Iterator[Window]:
    """Group batches by `size`. The last window of an epoch may be shorter."""
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield Window(group)


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad images right and bottom with zeros to the largest height and width; the mask is True on padding.

    Grey images among images in colour get three equal channels.
    """
    channels, height, width = (max(s.image.shape[i] for s in samples) for i in range(3))
    images = torch.zeros(len(samples), channels, height, width, dtype=samples[0].image.dtype)
    mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for i, sample in enumerate(samples):
        _, h, w = sample.image.shape
        images[i, :, :h, :w] = sample.image
        mask[i, :h, :w] = False
    return Batch(images, mask, [s.target for s in samples], is_ghost=all(s.is_ghost for s in samples))
