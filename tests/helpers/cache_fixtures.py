"""Fixtures for modules with `pytest_plugins = ["tests.helpers.cache_fixtures"]`."""

import json

import numpy as np
import pytest
from PIL import Image

from datasets.annotations.split import load_split


@pytest.fixture
def make(tmp_path):
    """Make a split of small images: grey PNG, grey as RGB, 16 bits and one in seven in colour."""

    def make_split(num=14, side=24, name="split"):
        rng = np.random.default_rng(0)
        (tmp_path / "images").mkdir(exist_ok=True)
        images = []
        for i in range(num):
            height, width = side + i % 3, side + i % 5
            grey = rng.integers(0, 256, (height, width), dtype=np.uint8)
            kinds = (grey, np.stack([grey] * 3, axis=-1), grey.astype(np.uint16) * 200)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8) if i % 7 == 3 else kinds[i % 3]
            file = f"i{i}.{'tif' if i % 6 == 4 else 'png'}"
            Image.fromarray(pixels).save(tmp_path / "images" / file)
            images.append({"id": 100 - i, "file_name": file, "width": width, "height": height})
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "active"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return load_split(tmp_path / "images", tmp_path / f"{name}.json")

    return make_split


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a cache"
