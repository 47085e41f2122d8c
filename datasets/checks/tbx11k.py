"""What is wrong with the annotations of TBX11K itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.annotations.split import Split
from datasets.annotations.tbx11k import CATEGORIES, WITHOUT_BOXES, unlabelled_extras, unlabelled_tb
from datasets.checks.findings import Finding
from util.base.text import first_few


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
