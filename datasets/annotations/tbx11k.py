"""TBX11K (Liu et al., CVPR 2020; TPAMI 2023): folders, categories, and images that lack annotations.

TBX11K/imgs/{tb,health,sick,test}/*.png, imgs/extra/{da+db,mc+shenzhen}/{train,val}/*
TBX11K/annotations/json/{TBX11K,all}_{train,val,trainval}.json and others
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.records import LabelledBox
from datasets.annotations.split import Split
from datasets.annotations.voc import parse_voc
from datasets.annotations.yolo import read_class_names
from util.base.errors import DataError

# Names in the files: active, latent, and uncertain tuberculosis. No box of train or val is uncertain.
CATEGORIES = {1: "ActiveTuberculosis", 2: "ObsoletePulmonaryTuberculosis", 3: "PulmonaryTuberculosis"}
NUM_CLASSES = max(CATEGORIES) + 1

# Names of the categories in re-uploads, letters only, lower case.
ALIASES = {
    "activetuberculosis": 1,
    "activetb": 1,
    "active": 1,
    "obsoletepulmonarytuberculosis": 2,
    "latenttuberculosis": 2,
    "latenttb": 2,
    "latent": 2,
    "obsolete": 2,
    "pulmonarytuberculosis": 3,
    "uncertaintuberculosis": 3,
    "uncertain": 3,
}

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


def parse_xml(content: bytes, file: Path, size: tuple[int, int]) -> list[LabelledBox]:
    """(category id, [x, y, w, h]) in pixels of an image of `size` (height, width), from the authors' xml.

    As in their json files: corner = xml * side / original side - 1 px, in single precision.

    Raises:
        DataError: as in `parse_voc`.
    """
    ids = {name: k for k, name in CATEGORIES.items()}
    voc = parse_voc(content, file, ids, needs_size=True)
    height, width = size
    scale = np.array([width / voc.width, height / voc.height] * 2)
    scaled: list[LabelledBox] = []
    for name, *corners in voc.boxes:
        edges = (np.array(corners) * scale).astype(np.float32) - np.float32(1)
        scaled.append((ids[name], [*edges[:2].tolist(), *(edges[2:] - edges[:2]).tolist()]))
    return scaled


def read_classes(content: bytes, file: Path) -> dict[int, int]:
    """Category ids by the number of the class that a classes.txt or data.yaml names.

    Raises:
        DataError: it names no class, or one that TBX11K does not have.
    """
    names = read_class_names(content, file)
    keys = {number: re.sub(r"[^a-z]", "", name.lower()) for number, name in names.items()}
    unknown = [names[number] for number, key in keys.items() if key not in ALIASES]
    if unknown or not names:
        what = f"the class '{unknown[0][:60]}' is none of" if unknown else "names no class; those of TBX11K are"
        raise DataError(f"{file}: {what} {', '.join(CATEGORIES.values())}; write one of them per line into classes.txt")
    return {number: ALIASES[key] for number, key in keys.items()}


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
