"""Check a whole data folder: all its lists together, every image once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.annotations import layout, tbx11k
from datasets.annotations.split import Split, load_split
from datasets.annotations.voc import LARGEST_FILE, parse_voc
from datasets.checks.findings import Finding
from datasets.checks.image_files import read_image_files
from datasets.checks.image_pairs import Pair, Pictures, find_between, find_within, leaked
from datasets.checks.split import Files, find_in_categories, find_in_split
from datasets.prepare.source import IMAGES
from util.base.errors import DataError
from util.base.reading import read_document, read_regular
from util.base.text import first_few

TOLERANCE = 0.01  # pixels between json and xml; single precision leaves 0.00003


@dataclass(frozen=True)
class FolderCheck:
    """What was found, and what it was found in."""

    findings: list[Finding]
    splits: dict[str, Split]
    leaks: list[Pair]  # pictures of training that are in validation too


def check_folder(root: Path) -> FolderCheck:
    """Read every annotation file and every image of a TBX11K or COCO folder.

    Raises:
        DataError: it has neither layout.
    """
    which = next((kind for kind in (layout.TBX11K, layout.COCO) if kind.lists(root)), layout.TBX11K)
    splits, findings = {}, []
    for name in which.lists(root) or [which.find_split(root, "")]:
        try:
            splits[name] = load_split(*which.find_split(root, name))
        except DataError as error:
            findings.append(Finding("bad_annotations", str(error)))
    if not splits:
        return FolderCheck(findings, {}, [])
    unions = _unions(splits)
    paths = [split.image_dir / name for split in unions for name in split.file_names.tolist() if "\0" not in name]
    files = read_image_files(paths, {})
    findings += _find_in_each(splits, unions, which is layout.TBX11K, files)
    sides = [_side(splits, side) for side in ("train", "val")]
    findings += _find_between_lists(splits)
    leaks: list[Pair] = []
    if sides[0] and sides[1]:
        train, val = (Pictures.of(side, files) for side in sides)
        findings += [*find_between(train, val), *find_in_categories(*sides)]
        leaks = leaked(train, val)
    if which is layout.TBX11K:
        findings += _find_in_tbx11k(root, splits, unions[0])
    return FolderCheck(findings, splits, leaks)


def _find_in_each(splits: Mapping[str, Split], unions: list[Split], is_tbx11k: bool, files: Files) -> Iterator[Finding]:
    """What all lists together show, and what one of them alone does."""
    told = set()
    for split in unions:
        for finding in [*_find_in_list(split, is_tbx11k, files), *find_within(Pictures.of(split, files))]:
            told.add(finding.kind)
            yield finding
    for name, split in splits.items():
        for finding in _find_in_list(split, is_tbx11k, files):
            if finding.kind not in told and finding.severity != "note":
                yield replace(finding, text=f"{name}: {finding.text}")


def _find_in_list(split: Split, is_tbx11k: bool, files: Files) -> Iterator[Finding]:
    fitting = max(split.category_ids) + 1
    num_classes = min(tbx11k.NUM_CLASSES, fitting) if is_tbx11k else fitting
    yield from find_in_split(split, num_classes, drops_empty_boxes=not is_tbx11k, files=files)
    if is_tbx11k:
        yield from tbx11k.find_unlabelled_tb(split, is_excluded=True)
        yield from tbx11k.find_contradictions(split)


def _unions(splits: Mapping[str, Split]) -> list[Split]:
    """The lists of each image folder as one, every image once."""
    by_folder = defaultdict(list)
    for split in splits.values():
        by_folder[split.image_dir].append(split)
    return [_union(together) for together in by_folder.values()]


def _union(splits: list[Split]) -> Split:
    """Images that a list has more than once stay more than once; ids are those of the first list that has an image."""
    whole = max(splits, key=lambda split: split.num_images)
    for split in splits:
        known = set(whole.file_names.tolist())
        new = split.without(
            np.array([i for i, n in enumerate(split.file_names.tolist()) if n in known], dtype=np.int64)
        )
        whole = _joined(whole, new) if new.num_images else whole
    return replace(whole, names={k: v for split in reversed(splits) for k, v in split.names.items()})


def _joined(first: Split, second: Split) -> Split:
    columns = ("image_ids", "file_names", "sizes", "xywh", "labels", "area", "is_crowd")
    joined = {key: np.concatenate([vars(first)[key], vars(second)[key]]) for key in columns}
    places = np.concatenate([first.first_box, second.first_box[1:] + first.first_box[-1]])
    return replace(first, first_box=places, **joined)


def _side(splits: Mapping[str, Split], side: str) -> Split | None:
    """The largest list of training, or of validation."""
    mine = [split for name, split in splits.items() if name.removeprefix("instances_").rstrip("0123456789") == side]
    mine += [split for name, split in splits.items() if name.endswith(f"_{side}")]
    return max(mine, key=lambda split: split.num_images, default=None)


def _find_between_lists(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Ids that mean two images, and images of which two lists say different things."""
    names: dict[int, set[str]] = defaultdict(set)
    facts: dict[tuple[Path, str], set[object]] = defaultdict(set)
    for split in splits.values():
        here = {name: _record(split, index) for index, name in enumerate(split.file_names.tolist())}
        for name, record in here.items():
            facts[split.image_dir, name].add(record)
        for image, name in split.files_by_id.items():
            names[image].add(name)
    clashing = [image for image, found in names.items() if len(found) > 1]
    if clashing:
        text = f"{len(clashing)} image ids mean different images in different lists, as where ids restart at 1"
        example = f"id {clashing[0]} is {first_few(sorted(names[clashing[0]]))}"
        yield Finding("restarting_ids", f"{text}: {example}; join by file_name, never by id: nothing to mend", "note")
    disputed = [name for (_, name), found in facts.items() if len(found) > 1]
    if disputed:
        text = f"{len(disputed)} images have other boxes or another size in one list than in another"
        yield Finding("disputed_record", f"{text}: {first_few(disputed)}; fetch the annotation files anew")


def _record(split: Split, index: int) -> tuple[object, ...]:
    """What a list says of an image; the last record counts where it has several."""
    rows = split.boxes_of(index)
    boxes = np.column_stack([split.labels[rows], split.xywh[rows].round(2)]).tolist()
    return *split.sizes[index].tolist(), *sorted(map(tuple, boxes))


def _find_in_tbx11k(root: Path, splits: Mapping[str, Split], union: Split) -> Iterator[Finding]:
    yield from _find_extras(splits)
    yield from _find_in_xml(root, union)
    yield from _find_in_lists(root, splits)
    yield from _find_orphans(root, union)


def _find_extras(splits: Mapping[str, Split]) -> Iterator[Finding]:
    counts = {name: len(tbx11k.unlabelled_extras(split)) for name, split in splits.items()}
    told = [f"{count} in {name}" for name, count in counts.items() if count]
    if told:
        text = f"extra images that show tuberculosis by their names but have no box: {', '.join(told)}"
        mend = "train on TBX11K_*; these lists are refused unless --options allow_unlabelled_extras=True"
        yield Finding("unlabelled_extras", f"{text}; {mend}", "warning")


def _find_in_xml(root: Path, union: Split) -> Iterator[Finding]:
    """The xml files against the json files, by the authors' rule of scaling."""
    broken, differing = [], []
    position = {Path(name).stem: i for i, name in enumerate(union.file_names.tolist()) if name.startswith("tb/")}
    for path in sorted((root / "annotations/xml").glob("*.xml")):
        if path.stem not in position:
            continue
        rows = union.boxes_of(position[path.stem])
        ours = np.column_stack([union.labels[rows], union.xywh[rows]])
        try:
            voc = parse_voc(read_regular(path, LARGEST_FILE), path)
        except (DataError, OSError) as error:
            broken.append(str(error))
            continue
        boxes = voc.scaled(*union.sizes[position[path.stem]].tolist())
        theirs = np.array([[category, *box] for category, box in boxes]).reshape(-1, 5)
        if ours.shape != theirs.shape or not np.allclose(_sorted(ours), _sorted(theirs), rtol=0, atol=TOLERANCE):
            differing.append(path.name)
    if broken:
        yield Finding("bad_xml", f"{len(broken)} xml files cannot be read: {broken[0]}", "warning")
    if differing:
        text = f"{len(differing)} xml files have other boxes than the json files: {first_few(differing)}"
        mend = "one of them was changed: fetch both anew, or leave the xml out, which training does not read"
        yield Finding("xml_differs", f"{text}; {mend}", "warning")


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.round(1).T[::-1])]


def _find_in_lists(root: Path, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """lists/*.txt against the json files of the same name."""
    differing = []
    for name, split in splits.items():
        path = root / "lists" / f"{name}.txt"
        if path.is_file():
            text = read_document(path).decode("utf-8", errors="replace")
            listed = {line.strip() for line in text.splitlines()} - {""}
            gap = listed ^ set(split.file_names.tolist())
            differing += [f"{name} ({len(gap)} names)"] if gap else []
    if differing:
        text = f"{len(differing)} lists name other images than the json files: {first_few(differing)}"
        yield Finding("list_differs", f"{text}; training reads the json: fetch both anew", "warning")


def _find_orphans(root: Path, union: Split) -> Iterator[Finding]:
    listed, found = set(union.file_names.tolist()), []
    for folder, _, names in os.walk(root / "imgs"):
        paths = [Path(folder, name).relative_to(root / "imgs").as_posix() for name in names]
        found += [path for path in paths if path.lower().endswith(IMAGES) and path not in listed]
    if found:
        text = f"{len(found)} image files are in no list: {first_few(sorted(found))}"
        yield Finding("orphan", f"{text}; nothing reads them: add records, or remove the files", "note")
