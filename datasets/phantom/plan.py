"""Plan the files of a phantom before a pixel is drawn: images, COCO documents, VOC annotations, lists."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.annotations.tbx11k import CATEGORIES, coco_annotation, coco_categories, is_positive_extra
from datasets.phantom.render import Kind, PhantomCase
from datasets.phantom.statistics import POSITIVE_FRACTION, Lesion, sample_lesions
from util.base.errors import UserError
from util.base.seed import derive_rng

SMALLEST_SIZE = 64
EXTRAS_PER_IMAGE = 288 / 6600
POSITIVE_EXTRAS = 137 / 288  # TB by their file name, yet without a box: unlabelled, as in the real extras
TEST_IMAGES = 4
POSITIVE_TEST = 400 / 2800
UNUSED_KEYS = {"date_captured": "", "license": 1, "coco_url": "", "flickr_url": ""}  # of an image in the official files
DESCRIPTION = "Synthetic images and boxes in the layout of TBX11K"
INFO = dict(contributor="", date_created="", description=DESCRIPTION, url="", version="1.0", year=2020)


class PhantomError(UserError):
    """A phantom that cannot be made; the message states the reason and the fix."""


@dataclass(frozen=True)
class PlannedImage:
    """One image file: drawn from a case, or copied from `source`."""

    case: PhantomCase
    width: int
    height: int
    source: Path | None = None


@dataclass
class PhantomPlan:
    """All files of a phantom. Equal recipes make equal files."""

    recipe: dict[str, Any]
    images: list[PlannedImage] = field(default_factory=list)
    documents: dict[str, dict] = field(default_factory=dict)  # list name -> COCO document
    lists: dict[str, list[str]] = field(default_factory=dict)  # list name -> file names below imgs/
    xml: dict[str, str | Path] = field(default_factory=dict)  # "tb0005" -> text, or the file to copy


@dataclass(frozen=True)
class AnnotatedCase:
    """A case with its annotations: boxes (category, x, y, w, h) in pixels as in the json file, and the VOC text."""

    case: PhantomCase
    boxes: tuple[tuple[int, float, float, float, float], ...] = ()
    xml: str | None = None


def plan_phantom(
    train: int, val: int, seed: int, positive_fraction: float = POSITIVE_FRACTION, size: int = 512
) -> PhantomPlan:
    """Plan synthetic data in the layout of TBX11K: `train` and `val` images plus extras and a few test images."""
    check_seed(seed)
    _check_numbers(train, val, positive_fraction, size)
    recipe = {"train": train, "val": val, "seed": seed, "positive_fraction": positive_fraction, "size": size}
    plan = PhantomPlan(recipe)
    splits = _draw_splits(train, val, seed, positive_fraction)
    cases = {name: _annotated_case(name, seed, size) for names in splits.values() for name in names}
    extras = {split: _extra_names(split, n, seed) for split, n in (("train", train), ("val", val))}
    tests = [f"test/unknown_{i + 1}.png" for i in range(TEST_IMAGES)]
    for name in [*extras["train"], *extras["val"], *tests]:
        cases[name] = AnnotatedCase(hidden_case(name, seed))
    order = {name: i for i, name in enumerate(sorted(cases, key=_list_position))}
    for lists, parts in (("train", ["train"]), ("val", ["val"]), ("trainval", ["train", "val"])):
        names = sorted((n for p in parts for n in splits[p]), key=order.__getitem__)
        more = [n for p in parts for n in extras[p]]
        plan.lists[f"TBX11K_{lists}"] = names
        plan.lists[f"all_{lists}"] = names + more
    plan.lists["all_test"] = plan.lists["TBX11K_test"] = tests
    for name, members in plan.lists.items():
        if name == "TBX11K_test":
            continue  # the real data set has a list, but no document of that name
        plan.documents[name] = coco_document([cases[m] for m in members], size)
        if name.startswith("TBX11K"):
            plan.documents[f"{name}_only_tb"] = coco_document([cases[m] for m in members if cases[m].boxes], size)
    plan.xml = {Path(name).stem: annotated.xml for name, annotated in cases.items() if annotated.xml}
    plan.images = [PlannedImage(cases[name].case, size, size) for name in order]
    return plan


def check_seed(seed: int) -> None:
    """Refuse a negative seed, from which no generator can be derived."""
    if seed < 0:
        raise PhantomError(f"seed must be at least 0, got {seed}")


def hidden_case(name: str, seed: int) -> PhantomCase:
    """The content of an image without annotations: an extra, a test image or an unlabelled TB image."""
    rng = derive_rng(seed, name, "hidden")
    if name.startswith("test/"):
        draw = rng.random()
        kind: Kind = "tb" if draw < POSITIVE_TEST else "sick" if draw < 0.5 * (1 + POSITIVE_TEST) else "health"
    else:
        kind = "tb" if name.startswith("tb/") or is_positive_extra(name) else "health"
    return PhantomCase(name, seed, kind, sample_lesions(rng) if kind == "tb" else ())


def coco_document(cases: list[AnnotatedCase], size: int) -> dict[str, Any]:
    """A COCO document with the keys of the official files; ids restart at 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sides = {"width": size, "height": size}
    for image_id, annotated in enumerate(cases, start=1):
        images.append({"id": image_id, "file_name": annotated.case.name, **sides, **UNUSED_KEYS})
        for category, *box in annotated.boxes:
            annotations.append(coco_annotation(len(annotations) + 1, image_id, category, box, box[2] * box[3], **sides))
    return {
        "info": [INFO],
        "licenses": [{"id": 1, "name": "that of this repository", "url": ""}],
        "categories": coco_categories(),
        "images": images,
        "annotations": annotations,
    }


def voc_text(stem: str, original: tuple[int, int], boxes: list[tuple[int, int, int, int, int]]) -> str:
    """A VOC annotation: (category, xmin, ymin, xmax, ymax) in pixels of the original (width, height)."""
    objects = "".join(
        f"\t<object>\n\t\t<name>{CATEGORIES[category]}</name>\n\t\t<pose>unspecified</pose>\n"
        f"\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{xmin}</xmin>\n\t\t\t<ymin>{ymin}</ymin>\n\t\t\t<xmax>{xmax}</xmax>\n\t\t\t<ymax>{ymax}</ymax>\n"
        f"\t\t</bndbox>\n\t</object>\n"
        for category, xmin, ymin, xmax, ymax in boxes
    )
    return (
        f"<annotation>\n\t<filename>{stem}</filename>\n\t<segmented>0</segmented>\n\t<size>\n"
        f"\t\t<width>{original[0]}</width>\n\t\t<height>{original[1]}</height>\n\t</size>\n{objects}</annotation>\n"
    )


def _check_numbers(train, val, positive_fraction, size):
    if train < 1 or val < 1:
        raise PhantomError(f"train and val must be at least 1, got {train} and {val}")
    if not 0 <= positive_fraction <= 1:
        raise PhantomError(f"positive_fraction must lie in [0, 1], got {positive_fraction}")
    if size < SMALLEST_SIZE:
        raise PhantomError(f"size must be at least {SMALLEST_SIZE} px, got {size}")


def _draw_splits(train, val, seed, positive_fraction):
    """File names of both splits. Each class is numbered once, so train and val interleave as in the real lists."""
    rng = derive_rng(seed, "splits")
    splits = {"train": [], "val": []}
    counts = {split: _class_counts(n, positive_fraction) for split, n in (("train", train), ("val", val))}
    for pattern, kind in (("tb/tb{:04d}.png", 0), ("health/h{:04d}.png", 1), ("sick/s{:04d}.png", 2)):
        in_train = counts["train"][kind]
        in_val = counts["val"][kind]
        numbers = rng.permutation(in_train + in_val) + 1
        splits["train"] += [pattern.format(i) for i in numbers[:in_train]]
        splits["val"] += [pattern.format(i) for i in numbers[in_train:]]
    return splits


def _class_counts(images, positive_fraction):
    """(tb, health, sick); at least one TB image unless the fraction is 0."""
    tb = max(round(images * positive_fraction), 1 if positive_fraction > 0 else 0)
    health = (images - tb + 1) // 2
    return tb, health, images - tb - health


def _annotated_case(name, seed, size):
    """An annotated image. Boxes are whole pixels of an original film, scaled as in the official json files."""
    kind = name.split("/")[0]
    if kind != "tb":
        return AnnotatedCase(PhantomCase(name, seed, kind))
    rng = derive_rng(seed, name, "lesions")
    original = (int(rng.integers(1600, 2600)), int(rng.integers(1700, 2700)))
    corners = []
    for lesion in sample_lesions(rng):
        x, y, w, h = np.array(lesion.box) * [*original, *original]
        corners.append((lesion.category, round(x), round(y), round(x + w), round(y + h)))
    boxes = tuple(_json_box(corner, original, size) for corner in corners)
    lesions = tuple(Lesion(c, (x / size, y / size, w / size, h / size)) for c, x, y, w, h in boxes)
    return AnnotatedCase(PhantomCase(name, seed, kind, lesions), boxes, voc_text(Path(name).stem, original, corners))


def _json_box(corner, original, size):
    """A box as in the official files: xml * size / original - 1 px, in single precision."""
    category, xmin, ymin, xmax, ymax = corner
    across = size / original[0]
    down = size / original[1]
    x = np.float32(xmin * across - 1)
    y = np.float32(ymin * down - 1)
    return (
        category,
        float(x),
        float(y),
        float(np.float32((xmax - xmin) * across)),
        float(np.float32((ymax - ymin) * down)),
    )


def _extra_names(split, images, seed):
    """Names of unlabelled extras, alternately of three collections; every other one of the third is a JPEG."""
    rng = derive_rng(seed, "extras", split)
    names = []
    for i in range(round(images * EXTRAS_PER_IMAGE)):
        ill = int(rng.random() < POSITIVE_EXTRAS)
        number = 2 * i + (1 if split == "train" else 2)
        small = f"{'np'[ill]}{number}.png" if i // 3 % 2 else f"{'np'[ill]}x{number}.jpg"
        file = (f"CHNCXR_{number:04d}_{ill}.png", f"MCUCXR_{number:04d}_{ill}.png", small)[i % 3]
        names.append(f"extra/{'da+db' if i % 3 == 2 else 'mc+shenzhen'}/{split}/{file}")
    return names


def _list_position(name):
    folder = name.split("/")[0]
    return ("tb", "health", "sick", "extra", "test").index(folder), name
