"""TBX11K (Liu et al., CVPR 2020; TPAMI 2023): its folders, its categories, and what is missing in its annotations.

TBX11K/imgs/{tb,health,sick,test}/*.png, imgs/extra/{da+db,mc+shenzhen}/{train,val}/*
TBX11K/annotations/json/{TBX11K,all}_{train,val,trainval}.json and others
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import layout
from datasets.findings import Finding
from datasets.split import Split
from util.text import first_few

# As the files call them: active, latent, and uncertain tuberculosis. No box of train or val is uncertain.
CATEGORIES = {1: "ActiveTuberculosis", 2: "ObsoletePulmonaryTuberculosis", 3: "PulmonaryTuberculosis"}
NUM_CLASSES = max(CATEGORIES) + 1

# The extra images state by their names whether they show tuberculosis: Shenzhen and Montgomery end in _1, DA and DB
# begin with p.
POSITIVE_EXTRA = re.compile(r"extra/(.*_1\.\w+|da\+db/.*/p[^/]*)")


# What the image folders say of whole images.
KINDS = (("tb/", "tb"), ("health/", "healthy"), ("sick/", "sick"), ("extra/", "healthy"), ("test/", "unknown"))
WITHOUT_BOXES = ("health/", "sick/", "test/")


def image_kinds(files: Mapping[int, str]) -> dict[int, str]:
    """What kind of image each id is, "tb", "healthy", "sick" or "unknown", by its file name relative to imgs/.

    The truth of test/ is not published. Sick images show something other than tuberculosis. Images of other data sets
    are absent.
    """
    kinds = {}
    for image, name in files.items():
        kind = "tb" if POSITIVE_EXTRA.match(name) else next((k for prefix, k in KINDS if name.startswith(prefix)), None)
        if kind is not None:
            kinds[image] = kind
    return kinds


def find_split(data_path: Path | str, list_name: str) -> tuple[Path, Path]:
    """(image folder, annotation file) of a split such as 'TBX11K_train'.

    Raises:
        DataError: saying what was looked for, what is there, and the mend.
    """
    return layout.TBX11K.find_split(data_path, list_name)


def unlabelled_tb(split: Split) -> NDArray[np.int64]:
    """Positions of the images in tb/ that have no box: not negative, but unlabelled."""
    return _without_box(split, lambda name: name.startswith("tb/"))


def unlabelled_extras(split: Split) -> NDArray[np.int64]:
    """Positions of the extra images that show tuberculosis by their names but have no box."""
    return _without_box(split, lambda name: POSITIVE_EXTRA.match(name) is not None)


def _without_box(split: Split, is_meant: Callable[[str], bool]) -> NDArray[np.int64]:
    has_no_box = np.diff(split.first_box) == 0
    is_named = np.array([is_meant(name) for name in split.file_names.tolist()], dtype=bool)
    return np.flatnonzero(has_no_box & is_named)


def find_unlabelled_tb(split: Split, *, is_excluded: bool) -> Iterator[Finding]:
    """Images in tb/ without a box; `is_excluded`: they are going to be left out of training."""
    own = unlabelled_tb(split)
    if len(own):
        what = "left out of training" if is_excluded else "taken for background"
        mend = "exclude_unlabelled_tb=False keeps them" if is_excluded else "exclude_unlabelled_tb=True leaves them out"
        text = f"{len(own)} images in tb/ have no box: {first_few(split.file_names[own])}; unlabelled, not negative"
        yield Finding("unlabelled_tb", f"{text}: {what}, {mend}", "warning")


def find_unlabelled_extras(split: Split, *, is_allowed: bool) -> Iterator[Finding]:
    """Extra images that show tuberculosis but have no box; `is_allowed`: they are no reason to refuse the list."""
    extras = unlabelled_extras(split)
    if len(extras):
        num_tb = len(extras) + sum(name.startswith("tb/") for name in split.file_names.tolist())
        text = (
            f"{len(extras)} extra images of {split.name} show tuberculosis by their names but have no box, "
            f"{100 * len(extras) / num_tb:.1f} % of its images with TB: {first_few(split.file_names[extras])}; "
        )
        mend = (
            "they pass for background, as allow_unlabelled_extras says"
            if is_allowed
            else "a detector would learn them as background: use the lists TBX11K_*, "
            "or --options allow_unlabelled_extras=True"
        )
        yield Finding("unlabelled_extras", text + mend, "warning" if is_allowed else "error")


def find_contradictions(split: Split) -> Iterator[Finding]:
    """What the folders and categories of TBX11K say against the annotations."""
    counts = np.diff(split.first_box)
    strange = [n for n, c in zip(split.file_names.tolist(), counts, strict=True) if c and n.startswith(WITHOUT_BOXES)]
    if strange:
        text = f"{len(strange)} images outside tb/ have boxes: {first_few(strange)}"
        yield Finding("box_outside_tb", f"{text}; move these images, or remove their boxes", "warning")
    other = {k: v for k, v in split.names.items() if CATEGORIES.get(k) != v}
    if other:
        examples = first_few([f"{k} ({v})" for k, v in other.items()])
        wanted = ", ".join(f"{k} ({v})" for k, v in CATEGORIES.items())
        text = f"{len(other)} categories are not those of TBX11K: {examples}"
        mend = f"figures by category would not compare: TBX11K has {wanted}"
        yield Finding("other_categories", f"{text}; {mend}", "warning")
