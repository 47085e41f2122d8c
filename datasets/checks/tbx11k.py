"""Check what only TBX11K has: unlabelled TB images, extra images, folders that state the kind of image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.annotations.split import Split
from datasets.annotations.tbx11k import CATEGORIES, WITHOUT_BOXES, unlabelled_extras, unlabelled_tb
from datasets.checks.findings import Finding
from util.base.text import first_few


def find_unlabelled_tb(split: Split, *, is_excluded: bool) -> Iterator[Finding]:
    """Images in tb/ without a box; `is_excluded`: they are left out of training."""
    names = split.file_names[unlabelled_tb(split)].tolist()
    if names:
        what = "left out of training" if is_excluded else "used as background"
        fix = "exclude_unlabelled_tb=False keeps them" if is_excluded else "exclude_unlabelled_tb=True leaves them out"
        text = f"{len(names)} images in tb/ have no box: {first_few(names)}; unlabelled, not negative"
        yield Finding("unlabelled_tb", f"{text}: {what}, {fix}", "warning")


def find_unlabelled_extras(split: Split, *, is_allowed: bool) -> Iterator[Finding]:
    """Extra images that show tuberculosis but have no box; an error unless `is_allowed`."""
    extras = split.file_names[unlabelled_extras(split)].tolist()
    if extras:
        num_tb = len(extras) + sum(name.startswith("tb/") for name in split.file_names.tolist())
        text = (
            f"{len(extras)} extra images of {split.name} show tuberculosis by their names but have no box, "
            f"{100 * len(extras) / num_tb:.1f} % of its images with TB: {first_few(extras)}; "
        )
        fix = (
            "they are used as background, as allow_unlabelled_extras allows"
            if is_allowed
            else "a detector would learn them as background: use the lists TBX11K_*, "
            "or --options allow_unlabelled_extras=True"
        )
        yield Finding("unlabelled_extras", text + fix, "warning" if is_allowed else "error")


def find_contradictions(split: Split) -> Iterator[Finding]:
    """Boxes and categories that contradict the folders and categories of TBX11K."""
    counts = np.diff(split.first_box)
    labelled = [n for n, c in zip(split.file_names.tolist(), counts, strict=True) if c and n.startswith(WITHOUT_BOXES)]
    if labelled:
        text = f"{len(labelled)} images outside tb/ have boxes: {first_few(labelled)}"
        yield Finding("box_outside_tb", f"{text}; move these images, or remove their boxes", "warning")
    other = {k: v for k, v in split.names.items() if CATEGORIES.get(k) != v}
    if other:
        examples = first_few([f"{k} ({v})" for k, v in other.items()])
        known = ", ".join(f"{k} ({v})" for k, v in CATEGORIES.items())
        text = f"{len(other)} categories are not those of TBX11K: {examples}"
        fix = f"metrics per category would not compare: TBX11K has {known}"
        yield Finding("other_categories", f"{text}; {fix}", "warning")
