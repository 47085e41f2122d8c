"""One small data set of two categories, written in the layout of many tools."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = {1: "cell", 2: "platelet"}
SIDE = 64  # pixels; a power of two, so that shares of it are exact
TRAIN = ("a1.png", "a2.png", "a3.png", "b1.png", "b2.png", "b3.png", "b4.png")
VAL = ("c1.png", "c2.png", "c3.png")
LISTS = {"train": TRAIN, "val": VAL}
ALL = TRAIN + VAL


def boxes_of(name):
    """(category id, [x, y, w, h]); a3.png has none."""
    rng = np.random.default_rng(ALL.index(name))
    if name == "a3.png":
        return []
    return [(1 + i % 2, [*map(int, rng.integers(0, 32, 2)), *map(int, rng.integers(8, 32, 2))]) for i in range(3)]


def write_image(name, folder):
    """Noise with bright boxes."""
    pixels = np.random.default_rng([7, ALL.index(name)]).integers(0, 100, (SIDE, SIDE)).astype(np.uint8)
    for category, (x, y, w, h) in boxes_of(name):
        pixels[y : y + h, x : x + w] += np.uint8(70 * category)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def document(names, ids=None, prefix=""):
    """A COCO-format list with ids that count from 1 in order of all names, unless given."""
    ids = ids or {name: ALL.index(name) + 1 for name in names}
    boxes = [(ids[name], category, box) for name in names for category, box in boxes_of(name)]
    return {
        "images": [{"id": ids[n], "file_name": prefix + n, "width": SIDE, "height": SIDE} for n in names],
        "annotations": [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, k, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in NAMES.items()],
    }


def coco(root, images="{}", annotations="annotations/instances_{}.json", lists=LISTS, words=None, prefix="", ids=None):
    """COCO lists at any place; `words` are other names of the splits."""
    for side, names in lists.items():
        word = (words or {}).get(side, side)
        file = root / annotations.format(word)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document(names, ids, prefix)))
        for name in names:
            write_image(name, root / images.format(word))
    return root


def yolo(root, images="images/{}", labels="labels/{}", is_polygon=False, yaml=None, words=None):
    """A label file for each image with a box."""
    for side, names in LISTS.items():
        word = (words or {}).get(side, side)
        (root / labels.format(word)).mkdir(parents=True, exist_ok=True)
        for name in names:
            write_image(name, root / images.format(word))
            lines = [yolo_line(category - 1, box, is_polygon) for category, box in boxes_of(name)]
            if lines:
                (root / labels.format(word) / name).with_suffix(".txt").write_text("\n".join(lines))
    default = "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n  0: cell\n  1: platelet\n"
    (root / "data.yaml").write_text(yaml or default)
    return root


def yolo_line(label, box, is_polygon=False):
    x, y, w, h = (value / SIDE for value in box)
    corners = (x, y, x + w, y, x + w / 2, y + h, x, y + h, x + w, y + h)
    return " ".join(map(str, (label, *(corners if is_polygon else (x + w / 2, y + h / 2, w, h)))))


def voc_xml(name, boxes, size=(SIDE, SIDE)):
    objects = "".join(
        f"<object><name>{NAMES[k]}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for k, (x, y, w, h) in boxes
    )
    width, height = size
    shape = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    return f"<annotation><filename>{name}</filename>{shape}{objects}</annotation>"


def voc(root, images="JPEGImages", xml="Annotations", has_lists=True):
    """An XML file for each image."""
    for side, names in LISTS.items():
        for name in names:
            write_image(name, root / images.format(side))
            file = (root / xml.format(side) / name).with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(voc_xml(name, boxes_of(name)))
        if has_lists:
            (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            (root / f"ImageSets/Main/{side}.txt").write_text("".join(f"{Path(name).stem}\n" for name in names))
    return root


HEADER = ["file", "x1", "y1", "x2", "y2", "label"]


def csv_rows(names, prefix=""):
    rows = []
    for name in names:
        corners = [(x, y, x + w, y + h, NAMES[k]) for k, (x, y, w, h) in boxes_of(name)]
        rows += [[prefix + name, *row] for row in corners or [("",) * 5]]
    return rows


def csv_lists(root, files="{}.csv", images="images", header=HEADER, delimiter=",", prefix="", encoding="utf-8"):
    """A row for each box and for each image without one."""
    root.mkdir(parents=True, exist_ok=True)
    for side, names in LISTS.items() if "{}" in files else {"": ALL}.items():
        with (root / files.format(side)).open("w", newline="", encoding=encoding) as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([header] if header else [])
            writer.writerows(csv_rows(names, prefix))
    for name in ALL:
        write_image(name, root / images)
    return root


def plain(root, lists=None, ids=None):
    """The COCO layout itself."""
    return coco(root, lists=lists or LISTS, ids=ids)


def at(**where):
    """A writer of COCO lists at other places."""
    return lambda root: coco(root, **where)


# Divided into train and val
DIRECT = {
    "coco2017": at(words={"train": "train2017", "val": "val2017"}),
    "roboflow": at(images="{}", annotations="{}/_annotations.coco.json", words={"val": "valid"}),
    "fiftyone_folders": at(images="{}/data", annotations="{}/labels.json", words={"val": "validation"}),
    "plain_names": at(annotations="annotations/{}.json"),
    "images_folders": at(images="images/{}"),
    "one_images_folder": at(images="images"),
    "one_images_folder_plain_names": at(images="images", annotations="annotations/{}.json"),
    "images_folders_valid": at(images="images/{}", annotations="annotations/{}.json", words={"val": "valid"}),
    "json_beside_folders": at(annotations="{}.json"),
    "json_and_images_in_one_folder": at(images=".", annotations="{}.json"),
    "cvat_subsets": at(images="images/{}", words={"train": "Train", "val": "Validation"}),
}
CONVERTED = {
    "yolo": yolo,
    "yolo_polygons": lambda root: yolo(root, is_polygon=True),
    "yolo_roboflow": lambda root: yolo(
        root,
        images="{}/images",
        labels="{}/labels",
        words={"val": "valid"},
        yaml="train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cell', 'platelet']\n",
    ),
    "voc": voc,
    "voc_folders": lambda root: voc(root, images="{}", xml="{}", has_lists=False),
    "csv": csv_lists,
    "csv_retinanet": lambda root: csv_lists(root, files="{}.csv", header=None, prefix="images/"),
}
UNDIVIDED = {
    "cvat": at(images="images/default", annotations="annotations/instances_default.json", lists={"": ALL}),
    "label_studio": at(images="images", annotations="result.json", lists={"": ALL}, prefix="images/"),
    "fiftyone": at(images="data", annotations="labels.json", lists={"": ALL}),
    "labelme2coco": at(images=".", annotations="dataset.json", lists={"": ALL}),
    "voc_without_lists": lambda root: voc(root, has_lists=False),
    "csv_one_list": lambda root: csv_lists(root, files="boxes.csv", delimiter=";"),
}
