"""A COCO-format folder of a few small images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared"


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def coco():
    """A COCO-format content of 3 images, 2 with boxes; tests change it before they write it."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 48, "height": 40},
            {"id": 3, "file_name": "sub/b.png", "width": 30, "height": 50},
            {"id": 5, "file_name": "c.png", "width": 32, "height": 32},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [4.5, 6, 20, 30]},
            {"id": 3, "image_id": 5, "category_id": 1, "bbox": [0, 0, 32, 32], "area": 9.5, "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "active"}, {"id": 2, "name": "latent"}],
    }


@pytest.fixture
def write(tmp_path):
    """Write a content as tmp_path/NAME.json, with its images under tmp_path/images."""

    def write_folder(content, name="split"):
        file = tmp_path / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        for i, record in enumerate(content["images"] if isinstance(content, dict) else []):
            path = tmp_path / "images" / record["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(record["height"], record["width"], seed=i)).save(path)
        return tmp_path / "images", file

    return write_folder


@pytest.fixture
def tbx11k():
    """The real annotations, where they stand beside the repository."""
    folder = SHARED / "tbx11k"
    if not folder.is_dir():
        pytest.skip("needs the real annotations beside the repository")
    return folder
