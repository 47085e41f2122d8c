"""Check a whole data folder: all its lists together, every image once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.annotations import layout, tbx11k
from datasets.annotations.split import Split
from datasets.annotations.split_names import side_of
from datasets.annotations.voc import LARGEST_XML
from datasets.checks.boxes import find_usable
from datasets.checks.categories import find_in_num_classes, find_in_pair, find_unused_categories
from datasets.checks.findings import Finding
from datasets.checks.image_files import Files, read_depths, read_image_files
from datasets.checks.image_pairs import Pair, SplitFiles, find_repeated_files, find_shared_images, leaked_pairs
from datasets.checks.split import find_in_annotations, find_in_images, listed_files
from datasets.checks.tbx11k import find_contradictions, find_unlabelled_tb
from datasets.prepare.source import IMAGE_ENDINGS
from util.base.errors import DataError
from util.base.reading import read_document, read_regular
from util.base.text import first_few
from util.images.depth import DepthSetting, choose_depth

XML_TOLERANCE = 0.01  # pixels between json and xml; single precision leaves 0.00003


@dataclass(frozen=True)
class FolderCheck:
    """Findings in a data folder, with its splits."""

    findings: list[Finding]
    splits: dict[str, Split]
    leaks: list[Pair]  # training images that are in validation too

    @property
    def leaked_names(self) -> set[str]:
        """File names of training images that are in validation too, by name or by content."""
        train, val = (
            {
                (split.image_dir, name)
                for k, split in self.splits.items()
                if _is_of(k, side)
                for name in split.file_names.tolist()
            }
            for side in ("train", "val")
        )
        return {pair.first for pair in self.leaks} | {name for _, name in train & val}


def check_folder(
    root: Path, image_depth: DepthSetting = "auto", *, depth_knob: str = "--options image_depth="
) -> FolderCheck:
    """Read every annotation file and every image of a TBX11K or COCO folder.

    Args:
        root: the folder.
        image_depth: bits that the samples of 16-bit images use, or "auto".
        depth_knob: how messages call the setting of that, ending where its value follows.

    Raises:
        DataError: it has neither layout.
    """
    kind = layout.recognise_layout(root) or layout.TBX11K
    names = kind.lists(root)
    if not names:
        kind.find_split(root, "")  # raises the error that explains it
    splits = {}
    findings = []
    for name in names:
        try:
            splits[name] = kind.load(root, name)
        except DataError as error:
            findings.append(Finding("bad_annotations", str(error), "warning" if kind.is_spare(root, name) else "error"))
    if not splits:
        return FolderCheck(findings, {}, [])
    unions = _unions(splits)
    files = read_image_files([path for split in unions for path in listed_files(split)], {})
    findings += _find_depth(image_depth, files, depth_knob)
    findings += _find_in_each(splits, unions, kind is layout.TBX11K, files)
    findings += _find_between_lists(splits)
    leaks: list[Pair] = []
    train = _side(splits, "train")
    val = _side(splits, "val")
    findings += [_of(train, finding) for finding in find_usable(train, "train")] if train else []
    findings += [_of(val, finding) for finding in find_usable(val, "val")] if val else []
    findings += find_unused_categories(splits.values())
    if train and val:
        train_files = SplitFiles.of(train, files)
        val_files = SplitFiles.of(val, files)
        findings += [*find_shared_images(train_files, val_files), *find_in_pair(train, val)]
        leaks = leaked_pairs(train_files, val_files)
    if kind is layout.TBX11K:
        findings += [*_find_extras(splits), *_find_in_xml(root, unions[0])]
        findings += [*_find_in_lists(root, splits), *_find_orphans(root, unions[0])]
    return FolderCheck(findings, splits, leaks)


def _find_depth(setting: DepthSetting, files: Files, knob: str) -> Iterator[Finding]:
    """How 16-bit images are read, and what contradicts it."""
    try:
        found = choose_depth(setting, read_depths(files), knob)
    except DataError as error:
        yield Finding("image_depth", str(error))
        return
    if found.summary:
        yield Finding("image_depth", found.summary, "warning" if found.is_guess else "note")
    for text in found.warnings:
        yield Finding("image_depth", text, "warning")


def _find_in_each(splits: Mapping[str, Split], unions: list[Split], is_tbx11k: bool, files: Files) -> Iterator[Finding]:
    """Findings in the union of all lists, then those that only one list has."""
    known = set()
    for split in unions:
        for finding in [*_find_in_list(split, is_tbx11k, files), *find_repeated_files(SplitFiles.of(split, files))]:
            known.add(finding.kind)
            yield _of(split, finding) if len(unions) > 1 else finding
    for name, split in splits.items():
        for finding in _find_in_list(split, is_tbx11k, files):
            if finding.kind not in known and finding.severity != "note":
                yield replace(finding, text=f"{name}: {finding.text}")


def _of(split: Split, finding: Finding) -> Finding:
    """A finding that names the list it is of."""
    return replace(finding, text=f"{split.name}: {finding.text}")


def _find_in_list(split: Split, is_tbx11k: bool, files: Files) -> Iterator[Finding]:
    yield from find_in_annotations(split)
    yield from find_in_images(split, files)
    if is_tbx11k:
        yield from find_in_num_classes(split, min(tbx11k.NUM_CLASSES, max(split.category_ids) + 1))
        yield from find_unlabelled_tb(split, is_excluded=True)
        yield from find_contradictions(split)


def _unions(splits: Mapping[str, Split]) -> list[Split]:
    """The lists of each image folder as one, every image once."""
    by_folder = defaultdict(list)
    for split in splits.values():
        by_folder[split.image_dir].append(split)
    return [_union(together) for together in by_folder.values()]


def _union(splits: list[Split]) -> Split:
    """One list of all images, with the ids of the first list that has an image; a repetition within a list stays."""
    whole = max(splits, key=lambda split: split.num_images)
    for split in splits:
        known = set(whole.file_names.tolist())
        new = split.without(np.flatnonzero([name in known for name in split.file_names.tolist()]))
        whole = _joined(whole, new) if new.num_images else whole
    return replace(whole, names={k: v for split in reversed(splits) for k, v in split.names.items()}, notes=())


def _joined(first: Split, second: Split) -> Split:
    return replace(
        first,
        image_ids=np.concatenate([first.image_ids, second.image_ids]),
        file_names=np.concatenate([first.file_names, second.file_names]),
        sizes=np.concatenate([first.sizes, second.sizes]),
        first_box=np.concatenate([first.first_box, second.first_box[1:] + first.first_box[-1]]),
        xywh=np.concatenate([first.xywh, second.xywh]),
        labels=np.concatenate([first.labels, second.labels]),
        area=np.concatenate([first.area, second.area]),
        is_crowd=np.concatenate([first.is_crowd, second.is_crowd]),
        is_rotated=np.concatenate([first.is_rotated, second.is_rotated]),
        num_empty=np.concatenate([first.num_empty, second.num_empty]),
    )


def _side(splits: Mapping[str, Split], side: str) -> Split | None:
    """The largest list of training, or of validation."""
    mine = [split for name, split in splits.items() if _is_of(name, side)]
    return max(mine, key=lambda split: split.num_images, default=None)


def _is_of(name: str, side: str) -> bool:
    return side_of(name) == side or name.endswith(f"_{side}")


def _find_between_lists(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Ids that stand for two images, and images whose records differ between lists."""
    names: dict[int, set[str]] = defaultdict(set)
    facts: dict[tuple[Path, str], set[object]] = defaultdict(set)
    for split in splits.values():
        records = {name: _record(split, index) for index, name in enumerate(split.file_names.tolist())}
        for name, record in records.items():
            facts[split.image_dir, name].add(record)
        for image, name in split.files_by_id.items():
            names[image].add(name)
    clashing = [image for image, different in names.items() if len(different) > 1]
    if clashing:
        text = f"{len(clashing)} image ids mean different images in different lists, as where ids restart at 1"
        example = f"id {clashing[0]} is {first_few(sorted(names[clashing[0]]))}"
        yield Finding("restarting_ids", f"{text}: {example}; join by file_name, never by id: no action needed", "note")
    disputed = [name for (_, name), different in facts.items() if len(different) > 1]
    if disputed:
        text = f"{len(disputed)} images have other boxes or another size in one list than in another"
        yield Finding("disputed_record", f"{text}: {first_few(disputed)}; download the annotation files again")


def _record(split: Split, index: int) -> tuple[object, ...]:
    """Size and boxes of an image in a list."""
    rows = split.boxes_of(index)
    boxes = np.column_stack([split.labels[rows], split.xywh[rows].round(2)]).tolist()
    return *split.sizes[index].tolist(), *sorted(map(tuple, boxes))


def _find_extras(splits: Mapping[str, Split]) -> Iterator[Finding]:
    counts = {name: len(tbx11k.unlabelled_extras(split)) for name, split in splits.items()}
    found = [f"{count} in {name}" for name, count in counts.items() if count]
    if found:
        text = f"extra images that show tuberculosis by their names but have no box: {', '.join(found)}"
        fix = "train on TBX11K_*; these lists are refused unless --options allow_unlabelled_extras=True"
        yield Finding("unlabelled_extras", f"{text}; {fix}", "warning")


def _find_in_xml(root: Path, union: Split) -> Iterator[Finding]:
    """Compare the xml files with the json files, scaled as the authors did."""
    broken = []
    differing = []
    position = {Path(name).stem: i for i, name in enumerate(union.file_names.tolist()) if name.startswith("tb/")}
    for path in sorted((root / "annotations/xml").glob("*.xml")):
        if path.stem not in position:
            continue
        rows = union.boxes_of(position[path.stem])
        json_boxes = np.column_stack([union.labels[rows], union.xywh[rows]])
        try:
            size: tuple[int, int] = tuple(union.sizes[position[path.stem]].tolist())
            boxes = tbx11k.parse_xml(read_regular(path, LARGEST_XML), path, size)
        except (DataError, OSError) as error:
            broken.append(str(error))
            continue
        xml_boxes = np.array([[category, *box] for category, box in boxes]).reshape(-1, 5)
        if json_boxes.shape != xml_boxes.shape or not np.allclose(
            _sorted(json_boxes), _sorted(xml_boxes), rtol=0, atol=XML_TOLERANCE
        ):
            differing.append(path.name)
    if broken:
        yield Finding("bad_xml", f"{len(broken)} xml files cannot be read: {broken[0]}", "warning")
    if differing:
        text = f"{len(differing)} xml files have other boxes than the json files: {first_few(differing)}"
        fix = "one of them was changed: download both again, or leave the xml out, which training does not read"
        yield Finding("xml_differs", f"{text}; {fix}", "warning")


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.round(1).T[::-1])]


def _find_in_lists(root: Path, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Compare lists/*.txt with the json files of the same name."""
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
        yield Finding("list_differs", f"{text}; training reads the json: download both again", "warning")


def _find_orphans(root: Path, union: Split) -> Iterator[Finding]:
    listed = set(union.file_names.tolist())
    found = []
    for folder, _, names in os.walk(root / "imgs"):
        paths = [Path(folder, name).relative_to(root / "imgs").as_posix() for name in names]
        found += [path for path in paths if path.lower().endswith(IMAGE_ENDINGS) and path not in listed]
    if found:
        text = f"{len(found)} image files are in no list: {first_few(sorted(found))}"
        yield Finding("orphan", f"{text}; nothing reads them: add records, or remove the files", "note")
