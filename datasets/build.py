"""Config section -> split, dataset, sampler, loader. The only file of this room that reads the config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from datasets import layout, tbx11k
from datasets.cache import ImageCache
from datasets.cache_build import ready_cache
from datasets.checks import check_split
from datasets.coco import CocoDataset
from datasets.samplers import WindowBatchSampler, eval_indices
from datasets.split import Split, load_split
from datasets.transforms import eval_transform, train_transform
from util.batch import Batch, collate
from util.preemption import leave_signals_to_parent
from util.schema import DataConfig
from util.seed import derive_generator

FINDERS = {"coco": layout.COCO.find_split, "tbx11k": tbx11k.find_split}
MOST_CATEGORIES_NAMED = 8


def build_split(
    data: DataConfig,
    data_path: Path | str,
    which: Literal["train", "val"],
    *,
    num_classes: int,
    opens_images: bool = True,
) -> Split:
    """Find, read and check the training or the validation split; `opens_images` as in `check_split`.

    With `opens_images` the cache of its images is built too, if there shall be one.

    Raises:
        DataError: the folder is not laid out as `dataset_file` says, or its annotation file or images cannot be used.
        WriteError: there is no room for the cache.
    """
    list_name = data.train_list if which == "train" else data.val_list
    split = load_split(*FINDERS[data.dataset_file](data_path, list_name))
    is_coco = data.dataset_file == "coco"
    check_split(split, num_classes, drops_empty_boxes=is_coco, opens_images=opens_images)
    if opens_images:
        open_cache_of(split, data)
    return split


def open_cache_of(split: Split, data: DataConfig) -> ImageCache | None:
    """The cache of a split's images, built where it is missing or out of date; None: they are read from their files."""
    return ready_cache(split, Path(data.image_cache), workers=usable_cores()) if data.image_cache else None


def build_train_loader(
    split: Split,
    data: DataConfig,
    *,
    batch_size: int,
    accumulation: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[DataLoader[Batch], WindowBatchSampler]:
    """Augmented batches of one rank, and the sampler whose `set_epoch` must be called before every epoch."""
    transform = train_transform(
        flip=data.data_aug_flip,
        crop=data.data_aug_crop,
        scales=data.data_aug_scales,
        max_size=data.data_aug_max_size,
        resize_before_crop=data.data_aug_scales2_resize,
        crop_range=(data.data_aug_scales2_crop[0], data.data_aug_scales2_crop[1]),
        square=data.data_aug_square,
    )
    sampler = WindowBatchSampler(
        split.num_images,
        batch_size=batch_size,
        accumulation=accumulation,
        rank=rank,
        world_size=world_size,
        seed=seed,
    )
    dataset = CocoDataset(split, transform, seed=seed, is_train=True, images=open_cache_of(split, data))
    return _build_loader(dataset, data.num_workers, batch_sampler=sampler), sampler


def build_eval_loader(
    split: Split, data: DataConfig, *, batch_size: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Batch]:
    """Batches of the images that `rank` evaluates: each image on exactly one rank, unchanged but for one resize."""
    transform = eval_transform(data.data_eval_scale, data.data_aug_max_size)
    dataset = CocoDataset(split, transform, seed=0, is_train=False, images=open_cache_of(split, data))
    indices = eval_indices(split.num_images, rank, world_size)
    return _build_loader(dataset, data.num_workers, sampler=indices, batch_size=batch_size)


def _build_loader(dataset: CocoDataset, num_workers: int, **batches: object) -> DataLoader[Batch]:
    """Worker processes run on one torch thread each, which is PyTorch's own rule; more than cores would only wait."""
    num_workers = min(num_workers, usable_cores())
    return DataLoader(
        dataset,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals_to_parent,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        # A loader seeds its workers, who draw nothing from that. With a generator of its own it leaves the global
        # one alone, on which dropout depends.
        generator=derive_generator("loader"),
        **batches,
    )


def describe(split: Split) -> str:
    """The split in one log line: images, boxes, categories; and a line per kind of image that lacks its boxes."""
    labels = split.labels[~split.is_crowd]
    num_with = len(np.unique(split.image_of_box[~split.is_crowd]))
    if len(split.names) <= MOST_CATEGORIES_NAMED:
        counts = ", ".join(f"{(labels == c).sum()} {split.names[c]}" for c in split.category_ids)
    else:
        counts = f"{len(np.unique(labels))} of {len(split.names)} categories"
    share = 100 * num_with / split.num_images
    summary = (
        f"{split.name}: {split.num_images} images, {num_with} with boxes ({share:.1f} %), "
        f"{split.num_boxes} boxes: {counts}"
    )
    return "\n  ".join([summary, *tbx11k.unlabelled_images(split)])


def crowded_images(split: Split, num_queries: int) -> str | None:
    """A log line where images have more boxes than there are queries to answer for them, else None."""
    boxes = np.bincount(split.image_of_box[~split.is_crowd], minlength=split.num_images)
    num_crowded = int((boxes > num_queries).sum())
    if not num_crowded:
        return None
    fullest = int(boxes.argmax())
    return (
        f"{split.name}: {num_crowded} of {split.num_images} images have more boxes than num_queries = {num_queries}, "
        f"up to {boxes[fullest]} ({split.file_names[fullest]}); not all of them can be matched"
    )


def usable_cores() -> int:
    """Cores that this process may run on: under Slurm those of the allocation, not of the node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
