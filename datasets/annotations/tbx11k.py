"""TBX11K (Liu et al., CVPR 2020; TPAMI 2023): folders, categories, and images that lack annotations.

TBX11K/imgs/{tb,health,sick,test}/*.png, imgs/extra/{da+db,mc+shenzhen}/{train,val}/*
TBX11K/annotations/json/{TBX11K,all}_{train,val,trainval}.json and others
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.split import Split

# Names in the files: active, latent, and uncertain tuberculosis. No box of train or val is uncertain.
CATEGORIES = {1: "ActiveTuberculosis", 2: "ObsoletePulmonaryTuberculosis", 3: "PulmonaryTuberculosis"}
NUM_CLASSES = max(CATEGORIES) + 1

# The extra images state by their names whether they show tuberculosis: Shenzhen and Montgomery end in _1, DA and DB
# begin with p.
_POSITIVE_EXTRA = re.compile(r"extra/(.*_1\.\w+|da\+db/.*/p[^/]*)")

# Kind of image by folder.
IMAGE_KINDS = (("tb/", "tb"), ("health/", "healthy"), ("sick/", "sick"), ("extra/", "healthy"), ("test/", "unknown"))
WITHOUT_BOXES = ("health/", "sick/", "test/")


def coco_annotation(
    annotation_id: int, image_id: int, category: int, box: list[float], area: float, *, width: int, height: int
) -> dict[str, Any]:
    """A box [x, y, w, h] with the keys of the official json files; `width` and `height` of the image."""
    ids = {"id": annotation_id, "image_id": image_id, "category_id": category}
    return {**ids, "iscrowd": 0, "area": int(area), "bbox": box, "width": width, "height": height}


def coco_categories() -> list[dict[str, Any]]:
    """The categories of the official json files."""
    return [{"id": k, "name": name, "supercategory": "Tuberculosis"} for k, name in CATEGORIES.items()]


def image_kinds(files: Mapping[int, str]) -> dict[int, str]:
    """Kind of each image, "tb", "healthy", "sick" or "unknown", by its file name relative to imgs/.

    The ground truth of test/ is not published. Sick images show other disease. Images of other data sets are absent.
    """
    kinds = {}
    for image, name in files.items():
        if is_positive_extra(name):
            kinds[image] = "tb"
        elif kind := next((kind for folder, kind in IMAGE_KINDS if name.startswith(folder)), None):
            kinds[image] = kind
    return kinds


def is_positive_extra(name: str) -> bool:
    """Whether an extra image shows tuberculosis, by its file name relative to imgs/."""
    return _POSITIVE_EXTRA.match(name) is not None


def unlabelled_tb(split: Split) -> NDArray[np.int64]:
    """Positions of the images in tb/ that have no box: not negative, but unlabelled."""
    return _without_box(split, lambda name: name.startswith("tb/"))


def unlabelled_extras(split: Split) -> NDArray[np.int64]:
    """Positions of the extra images that show tuberculosis by their names but have no box."""
    return _without_box(split, is_positive_extra)


def _without_box(split: Split, is_meant: Callable[[str], bool]) -> NDArray[np.int64]:
    has_no_box = np.diff(split.first_box) == 0
    is_named = np.array([is_meant(name) for name in split.file_names.tolist()], dtype=bool)
    return np.flatnonzero(has_no_box & is_named)
