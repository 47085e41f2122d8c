import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.annotations.split import load_split
from datasets.cache import file as cache
from datasets.cache.build import ensure_cache
from datasets.cache.file import UnusableCache, cache_file, open_cache
from tests.helpers.cache import assert_holds, counted
from util.base.errors import DataError

pytest_plugins = ["tests.helpers.cache_fixtures"]


def test_the_cache_holds_the_pixels_of_the_files_to_the_bit(make, folder):
    split = make()
    images = ensure_cache(split, folder, workers=3)
    assert_holds(images, split)
    assert images.num_coloured == 2
    sizes = split.sizes.prod(axis=1)
    assert images.num_bytes == sizes.sum() + 2 * sizes[[3, 10]].sum()
    assert sorted(p.name for p in folder.iterdir()) == ["split.images", "split.images.lock"]


def test_it_is_built_once(make, folder, monkeypatch):
    split, decoded = make(), counted(monkeypatch)
    ensure_cache(split, folder, workers=2)
    assert sorted(decoded) == list(range(14))
    ensure_cache(split, folder, workers=2)
    assert len(decoded) == 14


def test_the_number_of_workers_changes_no_byte(make, folder):
    split = make()
    for workers in (1, 5):
        ensure_cache(split, folder / str(workers), workers=workers)
    one, five = (cache_file(split, folder / name).read_bytes() for name in ("1", "5"))
    assert one == five


def test_each_split_has_a_file_of_its_own(make, folder):
    for name in ("train", "val"):
        ensure_cache(make(name=name), folder, workers=1)
    assert sorted(p.name for p in folder.glob("*.images")) == ["train.images", "val.images"]


def test_another_process_maps_the_file_instead_of_being_sent_it(make, folder):
    split = make()
    images = ensure_cache(split, folder, workers=1)
    images(0)
    sent = pickle.dumps(images)
    assert len(sent) < images.num_bytes / 2
    assert_holds(pickle.loads(sent), split)


def test_a_process_that_comes_late_notices_that_the_file_is_another(make, folder):
    split = make()
    sent = pickle.dumps(ensure_cache(split, folder, workers=1))
    Image.new("L", (24, 24)).save(split.image_dir / "i0.png")
    ensure_cache(split, folder, workers=1)
    with pytest.raises(DataError, match="was rebuilt meanwhile"):
        pickle.loads(sent)(0)


def change_pixels(split):
    path = split.image_dir / "i0.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def change_pixels_behind_its_back(split):
    """The same size in bytes."""
    path = split.image_dir / "i4.tif"
    content = path.read_bytes()
    pixels = Image.fromarray(np.asarray(Image.open(path)) ^ 1)
    pixels.save(path)
    assert path.stat().st_size == len(content)


@pytest.mark.parametrize("change", [change_pixels, change_pixels_behind_its_back])
def test_it_is_rebuilt_when_an_image_changes(make, folder, change):
    split = make()
    old = ensure_cache(split, folder, workers=1)
    before = [old(i).tobytes() for i in range(split.num_images)]
    change(split)
    with pytest.raises(UnusableCache, match="1 images have changed since: i"):
        open_cache(split, folder)
    new = ensure_cache(split, folder, workers=1)
    assert_holds(new, split)
    assert [old(i).tobytes() for i in range(split.num_images)] == before, "who reads the old one goes on with it"


def test_a_copy_of_the_images_with_other_times_is_the_same(make, folder, monkeypatch):
    split, decoded = make(), counted(monkeypatch)
    ensure_cache(split, folder, workers=1)
    for path in split.image_dir.iterdir():
        os.utime(path, (1, 1))
    ensure_cache(split, folder, workers=1)
    elsewhere = shutil.copytree(split.image_dir, split.image_dir.with_name("copy"))
    assert_holds(ensure_cache(replace(split, image_dir=Path(elsewhere)), folder, workers=1), split)
    assert len(decoded) == 14


def test_a_copy_of_the_cache_is_a_cache(make, folder, monkeypatch):
    split = make()
    ensure_cache(split, folder, workers=1)
    staged, decoded = shutil.copytree(folder, folder.with_name("staged")), counted(monkeypatch)
    assert_holds(ensure_cache(split, staged, workers=1), split)
    assert not decoded


def test_a_list_and_the_same_list_without_some_images_share_a_cache(make, folder, monkeypatch):
    split = make(14)
    ensure_cache(split, folder, workers=1)
    decoded = counted(monkeypatch)
    for part in (split.without(np.array([0, 5])), split, split.without(np.array([13]))):
        assert_holds(ensure_cache(part, folder, workers=1), part)
    assert not decoded


@pytest.mark.parametrize(("num", "reason"), [(15, "lacks 1 images of .*: i14.png"), (14, "built by another version")])
def test_another_list_or_another_reader_wants_another_cache(make, folder, num, reason, monkeypatch):
    ensure_cache(make(14), folder, workers=1)
    split = make(num)
    monkeypatch.setattr(cache, "READER_VERSION", "reader 0" if num == 14 else cache.READER_VERSION)
    with pytest.raises(UnusableCache, match=reason):
        open_cache(split, folder)
    assert_holds(ensure_cache(split, folder, workers=1), split)


@pytest.mark.parametrize("keep", [0, 10, 16, 0.5, -1])
def test_a_damaged_cache_is_rebuilt(make, folder, keep):
    split = make()
    ensure_cache(split, folder, workers=1)
    file = cache_file(split, folder)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UnusableCache, match="is no complete cache"):
        open_cache(split, folder)
    assert_holds(ensure_cache(split, folder, workers=1), split)


def test_a_damaged_index_is_noticed(make, folder):
    split = make()
    ensure_cache(split, folder, workers=1)
    file = cache_file(split, folder)
    file.write_bytes(file.read_bytes().replace(b'"entries"', b'"entriez"'))
    with pytest.raises(UnusableCache, match="its index is damaged"):
        open_cache(split, folder)


def test_no_word_about_the_person_of_a_dicom_file_gets_into_the_cache(tmp_path, folder):
    pytest.importorskip("pydicom")
    from tests.helpers.files.dicom import PERSON, write

    write(
        tmp_path / "a.dcm",
        np.arange(30).reshape(5, 6) * 99,
        bits=12,
        kind="MONOCHROME1",
        WindowCenter=900,
        WindowWidth=800,
    )
    content = {"images": [{"id": 1, "file_name": "a.dcm", "height": 5, "width": 6}], "annotations": []}
    (tmp_path / "split.json").write_text(json.dumps({**content, "categories": [{"id": 1, "name": "active"}]}))
    split = load_split(tmp_path, tmp_path / "split.json")
    assert_holds(ensure_cache(split, folder, workers=1), split)
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not any(value.encode() in written for value in PERSON.values())
