"""Check the categories of splits: ids, names, and boxes of each in training and in validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from datasets.annotations.split import Split
from datasets.checks.findings import Finding, refuse_errors
from util.base.text import first_few
from util.config import KNOBS
from util.config.schema import Count
from util.detection.class_map import ClassMap

MOST_CLASSES = KNOBS["num_classes"][1].metadata["high"]


def find_in_category_names(split: Split) -> Iterator[Finding]:
    """Names that stand for more than one category id of a list."""
    repeated = [name for name, count in Counter(split.names.values()).items() if count > 1]
    if repeated:
        yield Finding(
            "repeated_category",
            f"{len(repeated)} category names stand for more than one id: {first_few(repeated)}; "
            "give each id a name of its own, or the metrics of one would hide those of another",
        )


def find_in_num_classes(split: Split, num_classes: Count | ClassMap) -> Iterator[Finding]:
    """Whether `num_classes` of the network fits the list; of several lists that with the largest category id.

    Where the class indices are not the category ids ("auto", or a class map) any ids fit.
    """
    if not isinstance(num_classes, int):
        return
    largest = split.category_ids[-1]
    if largest >= num_classes:
        enough = largest + 1 if largest < MOST_CLASSES else "auto"
        yield Finding(
            "large_category",
            f"category ids go up to {largest} ({split.names[largest]}), but num_classes is {num_classes}; "
            f"set --options num_classes={enough}",
        )
    if largest + 1 < num_classes:
        text = f"num_classes is {num_classes}, but category ids go up to {largest} ({split.names[largest]})"
        yield Finding("spare_classes", f"{text}; set --options num_classes={largest + 1}", "warning")


def find_unknown_categories(split: Split) -> Iterator[Finding]:
    """Boxes of categories that are no class of the network of a checkpoint."""
    ids = np.unique(split.labels[~split.is_crowd])
    unknown = [f"{k} ({split.names[k]})" for k in ids[split.classes.to_index(ids) < 0].tolist()]
    if unknown:
        text = f"{len(unknown)} categories with boxes are no class of the network: {first_few(unknown)}"
        yield Finding("unknown_category", f"{text}; its classes are the category ids {list(split.classes.ids)}")


def find_unused_categories(splits: Iterable[Split]) -> Iterator[Finding]:
    """Categories that have no box in any of the lists."""
    splits = list(splits)
    names = {k: name for split in splits for k, name in split.names.items()}
    unused = sorted(names.keys() - {label for split in splits for label in _counts(split)})
    if unused and len(unused) < len(names):
        text = f"{len(unused)} categories have no box: {first_few([f'{k} ({names[k]})' for k in unused])}"
        fix = "their AP is undefined and left out of means: no action needed"
        yield Finding("unused_category", f"{text}; {fix}", "note")


def check_pair(train: Split, val: Split) -> list[str]:
    """Refuse two splits whose categories differ; return the warnings.

    Raises:
        DataError: one line per error that `find_in_pair` finds.
    """
    return refuse_errors(find_in_pair(train, val), f"{val.annotation_file}: does not go with {train.annotation_file}")


def find_in_pair(train: Split, val: Split) -> Iterator[Finding]:
    """Category ids with different names in the two splits; categories with boxes in one of them alone."""
    changed = [k for k in train.category_ids if k in val.names and val.names[k] != train.names[k]]
    if changed:
        examples = first_few([f"{k} is {train.names[k]} in training, {val.names[k]} in validation" for k in changed])
        text = f"{len(changed)} category ids have different names: {examples}; use one list in both files"
        yield Finding("changed_category", text)
    trained = _counts(train)
    evaluated = _counts(val)
    unlisted = {k: n for k, n in evaluated.items() if k not in train.names}
    if unlisted:
        examples = first_few([f"{k} ({val.names[k]})" for k in unlisted])
        text = (
            f"{sum(unlisted.values())} of {val.num_boxes} boxes are of categories that training does not list: "
            f"{examples}; list them there, or remove these boxes"
        )
        yield Finding("untrained_category", text)
    if not trained or not evaluated:
        return  # `find_in_boxes` says so
    unseen = [k for k in evaluated if k in train.names and k not in trained]
    if unseen:
        text = f"{len(unseen)} categories have boxes in validation and none in training: {_counted(unseen, val)}"
        fix = "their AP will be about 0 and counts in the mean: move images of them to training"
        yield Finding("unseen_category", f"{text}; {fix}", "warning")
    unevaluated = [k for k in trained if k not in evaluated]
    if unevaluated:
        text = f"{len(unevaluated)} categories have boxes in training and none in validation: "
        fix = "their AP is undefined and left out of the mean: move images of them to validation"
        yield Finding("unevaluated_category", f"{text}{_counted(unevaluated, train)}; {fix}", "warning")


def _counted(categories: list[int], split: Split) -> str:
    counts = _counts(split)
    return first_few([f"{k} ({split.names[k]}, {counts[k]} box{'es' * (counts[k] > 1)})" for k in categories])


def _counts(split: Split) -> dict[int, int]:
    """Boxes by category id, of categories that have any."""
    ids, counts = np.unique(split.labels[~split.is_crowd], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
