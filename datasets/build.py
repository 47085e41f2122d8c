"""Config section -> split, dataset, sampler, loader. The only file of this room that reads the config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from datasets.annotations import layout, tbx11k
from datasets.annotations.split import Split, load_split
from datasets.augment.mixing import Mixer
from datasets.augment.steps import steps_after, steps_before
from datasets.augment.transforms import eval_transform, train_transform
from datasets.cache.build import ready_cache
from datasets.cache.file import ImageCache
from datasets.checks.findings import Finding, refuse_errors
from datasets.checks.image_files import read_image_files, recall
from datasets.checks.image_pairs import Pictures, find_between, find_within
from datasets.checks.split import Files, check_pair, find_in_split
from datasets.checks.tbx11k import find_contradictions, find_unlabelled_extras, find_unlabelled_tb
from datasets.dataset import CocoDataset, Transform, kept_boxes
from datasets.loader import WatchedLoader
from datasets.sampling.orders import (
    NaturalOrder,
    Order,
    PositiveShareOrder,
    RepeatFactorOrder,
    category_factors,
    repeat_factors,
)
from datasets.sampling.samplers import WindowBatchSampler, eval_indices
from util.base.processes import usable_cores
from util.base.seed import derive_generator
from util.base.text import first_few, printable
from util.config.schema import DataConfig
from util.detection.batch import Batch, collate
from util.distributed.preemption import leave_signals_to_parent

FINDERS = {"coco": layout.COCO.find_split, "tbx11k": tbx11k.find_split}
MOST_CATEGORIES_NAMED = 8
PREFETCH = 4  # batches ahead per loader process: a few slow images, such as mosaics, do not stop the training
Side = Literal["train", "val"]
SIDES: tuple[Side, ...] = ("train", "val")


@dataclass(frozen=True)
class Checked:
    """What a training works on."""

    splits: dict[str, Split]  # "train" and "val"
    warnings: list[str]
    files: Files  # what the image files hold, for `datasets.checks.image_files.remember`


def build_splits(
    data: DataConfig,
    data_path: Path | str,
    *,
    num_classes: int,
    opens_images: bool = True,
    run: Path | None = None,
) -> Checked:
    """Find, read and check the training and the validation split.

    What takes no time is checked first, then every image is read to its end, unless the folder of the run or one beside
    it knows the file. Who shares the splits with a process that opens the images need not.

    Raises:
        DataError: as in `build_split`, or the splits do not go together.
    """
    listed = {which: _load(data, data_path, which) for which in SIDES}
    for which, split in listed.items():
        findings = _findings(split, data, which, num_classes, opens_images=False)
        refuse_errors(findings, f"{split.annotation_file}: cannot be used")
    check_pair(listed["train"], listed["val"])
    splits = {which: _trimmed(split, data, which) for which, split in listed.items()}
    if not opens_images:
        return Checked(splits, [], {})
    paths = [split.image_dir / name for split in listed.values() for name in split.file_names.tolist()]
    files = read_image_files(dict.fromkeys(paths), recall(run))
    warnings = []
    for which, split in listed.items():
        findings = [*_findings(split, data, which, num_classes, files=files), *find_within(Pictures.of(split, files))]
        told = refuse_errors(findings, f"{split.annotation_file}: cannot be used")
        warnings += [f"{split.name}: {line}" for line in told]
    pictures = [Pictures.of(splits[which], files) for which in SIDES]
    headline = f"{listed['val'].annotation_file}: does not go with {listed['train'].annotation_file}"
    warnings += refuse_errors(find_between(*pictures), headline)
    for split in splits.values():
        open_cache_of(split, data)
    return Checked(splits, warnings, files)


def build_split(
    data: DataConfig,
    data_path: Path | str,
    which: Side,
    *,
    num_classes: int,
    opens_images: bool = True,
) -> Split:
    """Find, read and check the training or the validation split; `opens_images` as in `find_in_split`.

    Images of TBX11K that show tuberculosis but have no box are left out of training, unless the config keeps them.

    With `opens_images` the cache of its images is built too, if there shall be one.

    Raises:
        DataError: the folder is not laid out as `dataset_file` says, its annotation file or images cannot be used, or
            the list has extra images that show tuberculosis without a box, which the config must allow.
        WriteError: there is no room for the cache.
    """
    split = _load(data, data_path, which)
    findings = _findings(split, data, which, num_classes, opens_images=opens_images)
    refuse_errors(findings, f"{split.annotation_file}: cannot be used")
    split = _trimmed(split, data, which)
    if opens_images:
        open_cache_of(split, data)
    return split


def _trimmed(split: Split, data: DataConfig, which: Side) -> Split:
    return split.without(tbx11k.unlabelled_tb(split)) if _excludes(data, which) else split


def _load(data: DataConfig, data_path: Path | str, which: Side) -> Split:
    list_name = data.train_list if which == "train" else data.val_list
    return load_split(*FINDERS[data.dataset_file](data_path, list_name))


def _findings(split: Split, data: DataConfig, which: Side, num_classes: int, **how: Any) -> Iterator[Finding]:
    yield from find_in_split(split, num_classes, drops_empty_boxes=data.dataset_file == "coco", **how)
    if data.dataset_file == "tbx11k":
        yield from find_unlabelled_tb(split, is_excluded=_excludes(data, which))
        yield from find_unlabelled_extras(split, is_allowed=data.allow_unlabelled_extras)
        yield from find_contradictions(split)


def _excludes(data: DataConfig, which: Side) -> bool:
    return which == "train" and data.dataset_file == "tbx11k" and data.exclude_unlabelled_tb


def open_cache_of(split: Split, data: DataConfig, *, checks_pixels: bool = False) -> ImageCache | None:
    """The cache of a split's images, built where it is missing or out of date; None: they are read from their files."""
    if not data.image_cache:
        return None
    return ready_cache(split, Path(data.image_cache), workers=usable_cores(), checks_pixels=checks_pixels)


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
    order = _build_order(split, data, batch_size * accumulation * world_size, seed)
    sampler = WindowBatchSampler(
        order, batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size
    )
    augmentation = _build_augmentation(data)
    mixer = _build_mixer(split, data)
    images = open_cache_of(split, data)
    dataset = CocoDataset(split, augmentation, seed=seed, is_train=True, mix=mixer, images=images)
    return _build_loader(dataset, data.num_workers, batch_sampler=sampler), sampler


def build_eval_loader(
    split: Split, data: DataConfig, *, batch_size: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Batch]:
    """Batches of the images that `rank` evaluates: each image on exactly one rank, unchanged but for one resize."""
    transform = eval_transform(data.data_eval_scale, data.data_aug_max_size)
    dataset = CocoDataset(split, transform, seed=0, is_train=False, images=open_cache_of(split, data))
    indices = eval_indices(split.num_images, rank, world_size)
    return _build_loader(dataset, data.num_workers, sampler=indices, batch_size=batch_size)


def _build_order(split: Split, data: DataConfig, window_size: int, seed: int) -> Order:
    """The order of the images that the config asks for."""
    if data.positive_fraction:
        return PositiveShareOrder(_has_boxes(split), data.positive_fraction, window_size, seed)
    if data.repeat_threshold:
        rows = kept_boxes(split)
        image = split.image_of_box[rows]
        label = split.labels[rows]
        of_category = category_factors(image, label, split.num_images, data.repeat_threshold)
        rare = [f"{split.names[k]} {factor:.2f} times" for k, factor in of_category.items() if factor > 1]
        means = f"repeat_threshold {data.repeat_threshold:g}: on average {first_few(rare) or 'none'}"
        return RepeatFactorOrder(repeat_factors(image, label, split.num_images, of_category), means, seed)
    return NaturalOrder(split.num_images, seed)


def _build_augmentation(data: DataConfig) -> Transform:
    """Flip, crop and resize, between the steps for X-rays that are on."""
    return train_transform(
        flip=data.data_aug_flip,
        crop=data.data_aug_crop,
        scales=data.data_aug_scales,
        max_size=data.data_aug_max_size,
        resize_before_crop=data.data_aug_scales2_resize,
        crop_range=(data.data_aug_scales2_crop[0], data.data_aug_scales2_crop[1]),
        square=data.data_aug_square,
        before=steps_before(rotate=data.data_aug_rotate, zoom=data.data_aug_zoom),
        after=steps_after(
            clahe=data.data_aug_clahe,
            clahe_clip=data.data_aug_clahe_clip,
            brightness=data.data_aug_brightness,
            contrast=data.data_aug_contrast,
            gamma=data.data_aug_gamma,
            noise=data.data_aug_noise,
            erase_probability=data.data_aug_erase,
            erase_area=data.data_aug_erase_area,
        ),
    )


def _build_mixer(split: Split, data: DataConfig) -> Mixer | None:
    """Mosaic and copy-paste, where one of them is on."""
    if not (data.data_aug_mosaic or data.data_aug_copy_paste):
        return None
    return Mixer(
        donors=np.flatnonzero(_has_boxes(split)),
        num_images=split.num_images,
        mosaic=data.data_aug_mosaic,
        copy_paste=data.data_aug_copy_paste,
        end_epoch=data.data_aug_mix_end_epoch,
    )


def _has_boxes(split: Split) -> NDArray[np.bool_]:
    """[I]: images of which training sees a box."""
    return np.bincount(split.image_of_box[kept_boxes(split)], minlength=split.num_images) > 0


def _build_loader(dataset: CocoDataset, num_workers: int, **batches: object) -> DataLoader[Batch]:
    """Worker processes run on one torch thread each, which is PyTorch's own rule; more than cores would only wait."""
    num_workers = min(num_workers, usable_cores())
    return WatchedLoader(
        dataset,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals_to_parent,
        collate_fn=collate,
        prefetch_factor=PREFETCH if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # A loader seeds its workers, who draw nothing from that. With a generator of its own it leaves the global
        # one alone, on which dropout depends.
        generator=derive_generator("loader"),
        **batches,
    )


def describe(split: Split) -> str:
    """The split in one log line: images, boxes, categories."""
    labels = split.labels[~split.is_crowd]
    num_with = len(np.unique(split.image_of_box[~split.is_crowd]))
    if len(split.names) <= MOST_CATEGORIES_NAMED:
        counts = ", ".join(f"{(labels == c).sum()} {printable(split.names[c])}" for c in split.category_ids)
    else:
        counts = f"{len(np.unique(labels))} of {len(split.names)} categories"
    share = 100 * num_with / split.num_images
    return (
        f"{split.name}: {split.num_images} images, {num_with} with boxes ({share:.1f} %), "
        f"{split.num_boxes} boxes: {counts}"
    )


def crowded_images(split: Split, num_queries: int) -> str | None:
    """A log line where images have more boxes than there are queries to answer for them, else None."""
    boxes = np.bincount(split.image_of_box[~split.is_crowd], minlength=split.num_images)
    num_crowded = int((boxes > num_queries).sum())
    if not num_crowded:
        return None
    fullest = int(boxes.argmax())
    return (
        f"{split.name}: {num_crowded} of {split.num_images} images have more boxes than num_queries = {num_queries}, "
        f"up to {boxes[fullest]} ({printable(split.file_names[fullest])}); not all of them can be matched"
    )
