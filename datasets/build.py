"""Config section -> split, dataset, sampler, loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.annotations import layout, tbx11k
from datasets.annotations.split import Split
from datasets.augment.mixing import Mixer
from datasets.augment.steps import steps_after, steps_before
from datasets.augment.transforms import EvalTransform, TrainTransform
from datasets.cache.build import ensure_cache
from datasets.cache.file import ImageCache
from datasets.checks.boxes import Role, find_usable
from datasets.checks.categories import check_pair, find_in_num_classes, find_unknown_categories
from datasets.checks.findings import Finding, refuse_errors
from datasets.checks.image_files import (
    Files,
    load_image_records,
    read_depths,
    read_image_files,
    read_image_headers,
)
from datasets.checks.image_pairs import SplitFiles, find_repeated_files, find_shared_images
from datasets.checks.split import find_in_annotations, find_in_images, listed_files
from datasets.checks.tbx11k import find_contradictions, find_unlabelled_extras, find_unlabelled_tb
from datasets.dataset import CocoDataset, Transform, kept_boxes
from datasets.loader import WatchedLoader
from datasets.sampling.orders import (
    PositiveFractionOrder,
    RepeatFactorOrder,
    SamplingOrder,
    ShuffledOrder,
    category_factors,
    repeat_factors,
)
from datasets.sampling.samplers import WindowBatchSampler, eval_indices
from util.base.console import print_note
from util.base.processes import usable_cores
from util.base.seed import derive_generator
from util.base.text import first_few, printable
from util.config.schema import Count, DataConfig
from util.detection.batch import collate
from util.detection.class_map import ClassMap
from util.distributed.preemption import ignore_signals_in_worker
from util.images.depth import FolderDepth, ReadingRules, choose_depth

LAYOUTS = {"coco": layout.COCO, "tbx11k": layout.TBX11K}
MOST_CATEGORIES_NAMED = 8
PREFETCH = 4  # batches ahead per loader process: a few slow images, such as mosaics, do not stop the training
DEPTH_KNOB = "--options image_depth="
SIDES: tuple[Role, ...] = ("train", "val")


@dataclass(frozen=True)
class CheckedSplits:
    """The splits of a training after all checks."""

    splits: dict[str, Split]  # "train" and "val"
    warnings: list[str]
    files: Files  # for `datasets.checks.image_files.save_image_records`
    depth: FolderDepth  # of 16-bit images; on a process that opens none, that of the config

    @property
    def lines(self) -> list[str]:
        """What the splits are, for the log."""
        return [*(f"{side}: {describe(split)}" for side, split in self.splits.items()), *self.depth.lines]

    def warnings_for(self, num_queries: int) -> list[str]:
        """All warnings, for a network of so many queries."""
        return [*self.warnings, *filter(None, [excess_boxes(self.splits["train"], num_queries)])]


def build_splits(
    data: DataConfig,
    data_path: Path | str,
    *,
    num_classes: Count | ClassMap,
    opens_images: bool = True,
    run: Path | None = None,
) -> CheckedSplits:
    """Read and check the training and the validation split.

    With `num_classes` "auto" each category of the training list gets a class; a class map is that of a checkpoint.

    The annotations are checked first, which takes no time. With `opens_images` every image is read too, unless its
    record is in the folder of the run or in one beside it. One process opens the images for all that share the splits.

    Raises:
        DataError: as in `build_split`, or the splits do not go together.
    """
    listed = {side: _read_split(data, data_path, side) for side in SIDES}
    if num_classes == "auto":
        num_classes = ClassMap.of(listed["train"].category_ids)
    listed = {side: _with_classes(split, num_classes) for side, split in listed.items()}
    largest = max(SIDES, key=lambda side: listed[side].category_ids[-1])
    warnings = {}
    for side, split in listed.items():
        findings = [*_find_in_annotations(split, data, side)]
        findings += find_in_num_classes(split, num_classes) if side == largest else []
        warnings[side] = _refuse(split, findings)
    of_pair = check_pair(listed["train"], listed["val"])
    splits: dict[str, Split] = {side: _without_excluded(split, data, side) for side, split in listed.items()}
    if not opens_images:
        return CheckedSplits(_by_rule(splits, data, FolderDepth()), [], {}, FolderDepth())
    paths = dict.fromkeys(path for split in listed.values() for path in listed_files(split))
    files = read_image_files(paths, load_image_records(run))
    for side, split in listed.items():
        findings = [*find_in_images(split, files), *find_repeated_files(SplitFiles.of(split, files))]
        warnings[side] += _refuse(split, findings)
    depth = choose_depth(data.image_depth, read_depths(files), DEPTH_KNOB)
    splits = _by_rule(splits, data, depth)
    shared = find_shared_images(SplitFiles.of(splits["train"], files), SplitFiles.of(splits["val"], files))
    of_pair += [finding.text for finding in shared]
    lines = [f"{listed[side].name}: {line}" for side in SIDES for line in warnings[side]]
    for split in splits.values():
        open_split_cache(split, data)
    return CheckedSplits(splits, [*lines, *of_pair], files, depth)


def build_split(
    data: DataConfig,
    data_path: Path | str,
    which: Role,
    *,
    num_classes: Count | ClassMap,
    opens_images: bool = True,
) -> Split:
    """Read and check the training or the validation split, as `check_split` without its warnings."""
    arguments = (data, data_path, which)
    return check_split(*arguments, num_classes=num_classes, opens_images=opens_images)[0]


def check_split(
    data: DataConfig,
    data_path: Path | str,
    which: Role,
    *,
    num_classes: Count | ClassMap,
    opens_images: bool = True,
) -> tuple[Split, list[str]]:
    """Read and check the training or the validation split; return it with the warnings.

    The network has these classes, or there is none ("auto").

    Images of TBX11K that show tuberculosis but have no box are left out of training, unless the config keeps them.
    With `opens_images` the header of every image is checked too, the depth of 16-bit images is found, and the cache is
    built if the config has one.

    Raises:
        DataError: the folder is not laid out as `dataset_file` states, its annotation file or images cannot be used, or
            the list has extra images that show tuberculosis without a box, which the config must allow.
        WriteError: the disk is too small for the cache.
    """
    split = _with_classes(_read_split(data, data_path, which), num_classes)
    findings = [*_find_in_annotations(split, data, which), *find_unknown_categories(split)]
    # The other list may have larger ids: a class too many is no finding here.
    findings += [found for found in find_in_num_classes(split, num_classes) if found.severity == "error"]
    headers = read_image_headers(listed_files(split)) if opens_images else {}
    warnings = _refuse(split, [*findings, *find_in_images(split, headers)])
    depth = choose_depth(data.image_depth, read_depths(headers), DEPTH_KNOB)
    for line in depth.lines:
        print_note(line)
    split = _by_rule({which: _without_excluded(split, data, which)}, data, depth)[which]
    if opens_images:
        open_split_cache(split, data)
    return split, warnings


def _by_rule(splits: Mapping[str, Split], data: DataConfig, found: FolderDepth) -> dict[str, Split]:
    """The splits with the depth that was found, else that of the config; they are one data set and have one rule."""
    depth = found.depth or (None if data.image_depth == "auto" else data.image_depth)
    return {side: replace(split, rules=ReadingRules(depth)) for side, split in splits.items()}


def _read_split(data: DataConfig, data_path: Path | str, which: Role) -> Split:
    list_name = data.train_list if which == "train" else data.val_list
    return LAYOUTS[data.dataset_file].load(data_path, list_name)


def _with_classes(split: Split, num_classes: Count | ClassMap) -> Split:
    return replace(split, classes=num_classes) if isinstance(num_classes, ClassMap) else split


def _find_in_annotations(split: Split, data: DataConfig, which: Role) -> Iterator[Finding]:
    yield from find_in_annotations(split)
    yield from find_usable(split, which)
    if data.dataset_file == "tbx11k":
        yield from find_unlabelled_tb(split, is_excluded=_excludes_unlabelled_tb(data, which))
        yield from find_unlabelled_extras(split, is_allowed=data.allow_unlabelled_extras)
        yield from find_contradictions(split)


def _refuse(split: Split, findings: Iterable[Finding]) -> list[str]:
    return refuse_errors(findings, f"{split.annotation_file}: cannot be used")


def _without_excluded(split: Split, data: DataConfig, which: Role) -> Split:
    return split.without(tbx11k.unlabelled_tb(split)) if _excludes_unlabelled_tb(data, which) else split


def _excludes_unlabelled_tb(data: DataConfig, which: Role) -> bool:
    return which == "train" and data.dataset_file == "tbx11k" and data.exclude_unlabelled_tb


def open_split_cache(split: Split, data: DataConfig) -> ImageCache | None:
    """Open the cache of a split's images, built where it is missing or out of date; None where the config has none."""
    if not data.image_cache:
        return None
    return ensure_cache(split, Path(data.image_cache), workers=usable_cores())


def build_train_loader(
    split: Split,
    data: DataConfig,
    *,
    batch_size: int,
    accumulation: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[WatchedLoader, WindowBatchSampler]:
    """Build the loader of one rank, and the sampler whose `set_epoch` must be called before every epoch."""
    order = _build_sampling_order(split, data, batch_size * accumulation * world_size, seed)
    sampler = WindowBatchSampler(
        order, batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size
    )
    augmentation = _build_augmentation(data)
    mixer = _build_mixer(split, data)
    images = open_split_cache(split, data)
    dataset = CocoDataset(split, augmentation, seed=seed, is_train=True, mix=mixer, images=images)
    return _build_loader(dataset, data.num_workers, batch_sampler=sampler), sampler


def build_eval_loader(
    split: Split, data: DataConfig, *, batch_size: int, rank: int = 0, world_size: int = 1
) -> WatchedLoader:
    """Build the loader of the images that `rank` evaluates: each image on exactly one rank, resized only."""
    transform = EvalTransform(data.data_eval_scale, data.data_aug_max_size)
    dataset = CocoDataset(split, transform, seed=0, is_train=False, images=open_split_cache(split, data))
    indices = eval_indices(split.num_images, rank, world_size)
    return _build_loader(dataset, data.num_workers, sampler=indices, batch_size=batch_size)


def _build_sampling_order(split: Split, data: DataConfig, window_size: int, seed: int) -> SamplingOrder:
    """Build the sampling order of the config."""
    if data.positive_fraction:
        return PositiveFractionOrder(_has_boxes(split), data.positive_fraction, window_size, seed)
    if data.repeat_threshold:
        rows = kept_boxes(split)
        image = split.image_of_box[rows]
        label = split.labels[rows]
        of_category = category_factors(image, label, split.num_images, data.repeat_threshold)
        rare = [f"{split.names[k]} {factor:.2f} times" for k, factor in of_category.items() if factor > 1]
        text = f"repeat_threshold {data.repeat_threshold:g}: on average {first_few(rare) or 'none'}"
        return RepeatFactorOrder(repeat_factors(image, label, split.num_images, of_category), text, seed)
    return ShuffledOrder(split.num_images, seed)


def _build_augmentation(data: DataConfig) -> Transform:
    """Build flip, crop and resize, between the steps for X-rays that are on."""
    return TrainTransform(
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
    """Build mosaic and copy-paste, where one of them is on."""
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
    """[I]: whether training sees a box of an image."""
    return np.bincount(split.image_of_box[kept_boxes(split)], minlength=split.num_images) > 0


def _build_loader(
    dataset: CocoDataset,
    num_workers: int,
    *,
    batch_sampler: WindowBatchSampler | None = None,
    sampler: list[int] | None = None,
    batch_size: int = 1,
) -> WatchedLoader:
    """Build a loader with at most one worker process per core: PyTorch gives each one thread."""
    num_workers = min(num_workers, usable_cores())
    return WatchedLoader(
        dataset,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_signals_in_worker,
        collate_fn=collate,
        prefetch_factor=PREFETCH if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # An own generator keeps the loader from drawing from the global one, which dropout uses.
        generator=derive_generator("loader"),
        batch_sampler=batch_sampler,
        sampler=sampler,
        batch_size=batch_size,
    )


def describe(split: Split) -> str:
    """Describe the split in one log line: images, boxes, categories."""
    labels = split.labels[~split.is_crowd]
    num_with = len(np.unique(split.image_of_box[~split.is_crowd]))
    if len(split.names) <= MOST_CATEGORIES_NAMED:
        counts = ", ".join(f"{(labels == c).sum()} {printable(split.names[c])}" for c in split.category_ids)
    else:
        counts = f"{len(np.unique(labels))} of {len(split.names)} categories"
    share = 100 * num_with / split.num_images
    name = f"{split.name} ({printable(split.layout)})" if split.layout else split.name
    return (
        f"{name}: {split.num_images} images, {num_with} with boxes ({share:.1f} %), {split.num_boxes} boxes: {counts}"
    )


def excess_boxes(split: Split, num_queries: int) -> str | None:
    """Describe images with more boxes than there are queries in one log line; None where there are none."""
    boxes = np.bincount(split.image_of_box[~split.is_crowd], minlength=split.num_images)
    num_images = int((boxes > num_queries).sum())
    if not num_images:
        return None
    fullest = int(boxes.argmax())
    return (
        f"{split.name}: {num_images} of {split.num_images} images have more boxes than num_queries = {num_queries}, "
        f"up to {boxes[fullest]} ({printable(split.file_names[fullest])}); not all of them can be matched"
    )
