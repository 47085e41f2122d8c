"""Divide a list into training and validation by what the image files contain."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Any

from datasets.prepare.collection import WHOLE, Collection, Item
from util.base.errors import DataError

VAL_FRACTION = 0.2


def divide(collection: Collection, val_fraction: float | None, seed: int) -> None:
    """Give a collection without validation one: this share of the images of each category, at least one.

    An image counts for its rarest category; those without a box are one more.

    The order is that of SHA-256 of the seed and the file's bytes: it depends on nothing else, an image that is added
    moves no other, and files that are equal byte by byte are on one side.

    Raises:
        DataError: it has a validation list though a share was given, no training images, or no two different images.
    """
    root = collection.tree.root
    lists = collection.lists
    if "val" in lists and "train" in lists:
        if val_fraction is not None:
            raise DataError(f"{root}: has lists for training and validation; leave --val_fraction out")
        return
    name = WHOLE if WHOLE in lists else "train"
    if name not in lists or "val" in lists:
        raise DataError(f"{root}: has no images for training, only {', '.join(lists) or 'nothing'}; add them")
    items = lists.pop(name)
    digests = {item.file: hashlib.sha256(collection.tree.read(item.file)).digest() for item in items}
    groups: dict[bytes, list[Item]] = defaultdict(list)
    for item in items:
        groups[digests[item.file]].append(item)
    share = VAL_FRACTION if val_fraction is None else val_fraction
    chosen: set[bytes] = set()
    strata = _by_rarest_category(groups)
    for stratum in strata if max(map(len, strata)) > 1 else [list(groups)]:
        stratum.sort(key=lambda digest: hashlib.sha256(b"%d:" % seed + digest).digest())
        count = max(1, round(share * sum(len(groups[digest]) for digest in stratum)))
        for digest in stratum[:-1]:  # at least one stays for training
            if count > 0:
                chosen.add(digest)
                count -= len(groups[digest])
    parts = {
        side: [item for item in items if (digests[item.file] in chosen) == (side == "val")] for side in ("train", "val")
    }
    if not all(parts.values()):
        raise DataError(f"{root}: cannot be divided into training and validation: it has no two different images")
    collection.lists = parts | lists
    collection.notes.append(
        f"divided into {len(parts['train'])} images for training and {len(parts['val'])} for validation by their "
        f"content, seed {seed}, val_fraction {share:g}; byte-identical images are on one side"
    )


def _by_rarest_category(groups: dict[bytes, list[Item]]) -> list[list[bytes]]:
    """The groups by that of their categories which the fewest groups have, and those without a box."""
    categories = {
        digest: {box["category_id"] for item in group for box in item.boxes} for digest, group in groups.items()
    }
    counts = Counter(k for found in categories.values() for k in found)
    strata: dict[Any, list[bytes]] = defaultdict(list)
    for digest, found in categories.items():
        strata[min(found, key=lambda k: (counts[k], str(k)), default=None)].append(digest)
    return list(strata.values())
