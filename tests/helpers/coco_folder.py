"""A small COCO-format folder without any defect, for tests that spoil its lists."""

import json

import numpy as np
from PIL import Image

from datasets.build import build_splits
from util.config.load import read_values
from util.config.schema import DataConfig

SIZE = (96, 80)  # width, height
BOXES = ([6, 5, 40, 30], [52, 44, 40, 34])  # of every image, one per category: near two corners
CATEGORIES = [{"id": 1, "name": "active"}, {"id": 2, "name": "latent"}]
COUNTS = {"train": 6, "val": 4}
SIDES = tuple(COUNTS)


def make_lists():
    """The contents of the two annotation files; x001.png, ... in folders train/ and val/."""
    lists = {}
    for side, count in COUNTS.items():
        images = [{"id": i, "file_name": f"x{i:03}.png", "width": 96, "height": 80} for i in range(1, count + 1)]
        annotations = [
            {
                "id": 2 * i + k,
                "image_id": i,
                "category_id": k + 1,
                "bbox": [*box],
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for i in range(1, count + 1)
            for k, box in enumerate(BOXES)
        ]
        lists[side] = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return json.loads(json.dumps(lists))


def write_images(root):
    """Write the images of both lists, all different."""
    for n, (side, count) in enumerate(COUNTS.items()):
        (root / side).mkdir(parents=True)
        for i in range(1, count + 1):
            pixels = np.random.default_rng(100 * n + i).integers(0, 256, SIZE[::-1], dtype=np.uint8)
            Image.fromarray(pixels).save(root / side / f"x{i:03}.png")


def annotation_file(root, side):
    """The annotation file of a side."""
    return root / f"annotations/instances_{side}.json"


def write_lists(root, lists):
    """Write both annotation files; a content is a document, or its text or bytes."""
    (root / "annotations").mkdir(exist_ok=True)
    for side, content in lists.items():
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        annotation_file(root, side).write_bytes(text if isinstance(text, bytes) else text.encode())


def data_config(base):
    """The config section for such a folder; `base` is config/_base_/data.py."""
    sides = {"train_list": "train", "val_list": "val"}
    scales = {"data_aug_scales": (32,), "data_aug_max_size": 64, "data_aug_square": False, "data_eval_scale": 32}
    crops = {"data_aug_scales2_resize": (40,), "data_aug_scales2_crop": (24, 32)}
    return DataConfig(dataset_file="coco", **sides, **scales, **crops, **{**read_values(base), "num_workers": 0})


def check(root, base, num_classes=3):
    """The splits as a training checks them."""
    return build_splits(data_config(base), root, num_classes=num_classes)
