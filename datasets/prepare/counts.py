"""Compare images and boxes per folder, split and category with the counts that the authors publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from datasets.annotations.split import Split
from datasets.annotations.tbx11k import CATEGORIES
from util.base.text import label, printable

PUBLISHED_FOLDERS = {
    "tb": 800,
    "health": 3800,
    "sick": 3800,
    "test": 3302,
    "extra/mc+shenzhen/train": 200,
    "extra/mc+shenzhen/val": 200,
    "extra/da+db/train": 88,
    "extra/da+db/val": 88,
}
# images, images with boxes, boxes of category 1, 2, 3
PUBLISHED_SPLITS = {
    "TBX11K_train": (6600, 599, 724, 178, 0),
    "TBX11K_val": (1800, 200, 248, 61, 0),
    "TBX11K_trainval": (8400, 799, 972, 239, 0),
    "TBX11K_train_only_tb": (599, 599, 724, 178, 0),
    "TBX11K_val_only_tb": (200, 200, 248, 61, 0),
    "TBX11K_trainval_only_tb": (799, 799, 972, 239, 0),
    "all_train": (6888, 599, 724, 178, 0),
    "all_val": (2088, 200, 248, 61, 0),
    "all_trainval": (8976, 799, 972, 239, 0),
    "all_test": (3302, 0, 0, 0, 0),
}
MOST_CATEGORIES = 10  # columns of a table
COUNTS = ("images", "with boxes", *CATEGORIES.values())


def count_split(split: Split) -> tuple[int, ...]:
    """Images, images with boxes, boxes of each category of TBX11K."""
    labels = Counter(split.labels[~split.is_crowd].tolist())
    with_boxes = len(np.unique(split.image_of_box[~split.is_crowd]))
    return split.num_images, with_boxes, *(labels[k] for k in CATEGORIES)


def compare_with_published(images: Iterable[str], splits: Mapping[str, Split]) -> tuple[str, list[str]]:
    """(table, a line per difference) of a data folder.

    Args:
        images: names below imgs/ of the images that are there.
        splits: by the name of their list.
    """
    folders = Counter(name.rpartition("/")[0] for name in images)
    table = [["folder below imgs", "images", "published"]]
    table += [[name, str(folders[name]), str(count)] for name, count in PUBLISHED_FOLDERS.items()]
    differences = [
        f"imgs/{name}: {folders[name]} images, published {count}: {_more_or_less(folders[name] - count)}"
        for name, count in PUBLISHED_FOLDERS.items()
        if folders[name] != count
    ]
    lists = [["list", *COUNTS, "published"]]
    for name in [*PUBLISHED_SPLITS, *sorted(set(splits) - set(PUBLISHED_SPLITS))]:
        if name not in splits:
            differences.append(f"{name}: is missing; published with {PUBLISHED_SPLITS[name][0]} images")
            continue
        counts = count_split(splits[name])
        published = PUBLISHED_SPLITS.get(name)
        rows = zip(COUNTS, counts, published or counts, strict=True)
        different = [f"{column} {count} instead of {official}" for column, count, official in rows if count != official]
        lists.append([name, *map(str, counts), "-" if not published else "differs" if different else "the same"])
        if different:
            differences.append(f"{name}: {', '.join(different)}")
    return f"{_align(table)}\n\n{_align(lists)}", differences


def count_lists(splits: Mapping[str, Split]) -> str:
    """A table of the images and boxes of each list, boxes also by category."""
    names = {k: name for split in splits.values() for k, name in sorted(split.names.items())}
    rows = [["list", "images", "with boxes", "boxes", *(f"{k} {label(name)}" for k, name in names.items())]]
    for list_name, split in splits.items():
        boxes = split.labels[~split.is_crowd].tolist()
        images = len(np.unique(split.image_of_box[~split.is_crowd]))
        counts = (split.num_images, images, len(boxes), *map(boxes.count, names))
        rows.append([printable(list_name), *map(str, counts)])
    return _align(rows if len(names) <= MOST_CATEGORIES else [row[:4] for row in rows])


def _more_or_less(gap: int) -> str:
    return f"{abs(gap)} {'too many' if gap > 0 else 'missing'}"


def _align(rows: list[list[str]]) -> str:
    """Align the columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
