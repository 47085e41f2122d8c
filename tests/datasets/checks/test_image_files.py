import io
import os

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from datasets.checks import image_files
from datasets.checks.image_files import RECORDS, ImageFile, load_image_records, read_image_files, save_image_records
from datasets.checks.image_pairs import LARGEST_DISTANCE, groups_within, pairs_between
from datasets.phantom import PhantomCase, render_case


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "imgs").mkdir()
    for i in range(4):
        Image.fromarray(render_case(PhantomCase(f"health/h{i}", 0, "health"), 96)).save(tmp_path / f"imgs/{i}.png")
    return tmp_path / "imgs"


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that were read to their ends."""
    names, read = [], image_files.read_image_file

    def note(path, stamp):
        names.append(path.name)
        return read(path, stamp)

    monkeypatch.setattr(image_files, "read_image_file", note)
    return names


def all_of(folder, known=()):
    return read_image_files(sorted(folder.iterdir()), dict(known))


def test_a_file_is_read_to_its_end(folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-60])
    (folder / "2.png").write_bytes(b"")
    files = read_image_files([*sorted(folder.iterdir()), folder / "gone.png"], {})
    assert files.keys() == {str(folder / f"{i}.png") for i in range(4)}
    assert isinstance(files[str(folder / "1.png")], str)
    assert files[str(folder / "2.png")] == "empty"
    assert files[str(folder / "0.png")].size == (96, 96)


def test_what_a_run_knows_is_not_read_again_by_it_or_by_its_neighbours(folder, tmp_path, opened):
    files = all_of(folder)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "3.png"]
    save_image_records(tmp_path / "logs/a", files)
    for run in ("logs/a", "logs/b"):
        opened.clear()
        assert all_of(folder, load_image_records(tmp_path / run)) == files
        assert opened == []
    assert load_image_records(tmp_path / "elsewhere/a") == {}
    assert load_image_records(None) == {}


def grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


def keep_size_and_time(path):
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path):
    os.utime(path, (1, 1))


@pytest.mark.parametrize("change", [grow, touch, keep_size_and_time])
def test_a_file_that_changed_is_read_again_and_no_other(folder, tmp_path, opened, change):
    save_image_records(tmp_path / "logs/a", all_of(folder))
    change(folder / "2.png")
    opened.clear()
    all_of(folder, load_image_records(tmp_path / "logs/a"))
    assert opened == ["2.png"]


def test_a_file_that_could_not_be_read_is_tried_again(folder, tmp_path, opened):
    (folder / "2.png").write_bytes(b"no image")
    save_image_records(tmp_path / "logs/a", all_of(folder))
    opened.clear()
    assert all_of(folder, load_image_records(tmp_path / "logs/a"))[str(folder / "2.png")] == "no image"
    assert opened == ["2.png"]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_memory_is_no_memory(folder, tmp_path, content):
    save_image_records(tmp_path / "logs/a", all_of(folder))
    whole = (tmp_path / "logs/a" / RECORDS).read_bytes()
    assert len(load_image_records(tmp_path / "logs/a")) == 4
    for damaged in (content, whole[: len(whole) // 2], whole[:-30]):
        (tmp_path / "logs/a" / RECORDS).write_bytes(damaged)
        assert load_image_records(tmp_path / "logs/a") == {}


def looks(images):
    def read(image):
        grey = image.convert("L")
        return ImageFile((0, 0, 0), grey.size, image.tobytes()[:16], image_files.perceptual_hash(grey), False)

    return {name: read(image) for name, image in images.items()}


def saved(image, **how):
    held = io.BytesIO()
    image.save(held, **how)
    return Image.open(held).convert("L")


def test_a_picture_saved_anew_is_recognised_and_another_picture_is_not():
    images = {f"{i}": Image.fromarray(render_case(PhantomCase(f"sick/s{i}", 0, "sick"), 256)) for i in range(12)}
    copies = {
        "jpeg": saved(images["0"], format="JPEG", quality=60),
        "smaller": images["1"].resize((180, 180)),
        "contrast": ImageEnhance.Contrast(images["2"]).enhance(0.85),
        "noise": Image.fromarray(
            np.clip(np.asarray(images["3"]) + np.random.default_rng(0).normal(0, 3, (256, 256)), 0, 255).astype("uint8")
        ),
    }
    pairs = pairs_between(looks(images), looks(copies))
    assert {(pair.first, pair.second) for pair in pairs} == {(str(i), name) for i, name in enumerate(copies)}
    assert all(pair.distance is not None and pair.distance <= LARGEST_DISTANCE for pair in pairs)


def test_pairs_by_hand():
    def file(digest, look, is_blank=False):
        return ImageFile((0, 0, 0), (8, 8), digest * 16, look, is_blank)

    none, few, many = bytes(32), b"\xff\xff" + bytes(30), b"\xff\xff\x80" + bytes(29)  # 0, 16, 17 signs
    train = {"a": file(b"a", none), "b": file(b"b", few), "c": file(b"c", none, True), "d": file(b"a", none)}
    val = {"x": file(b"x", none), "y": file(b"b", many), "z": file(b"c", none, True)}
    found = {(p.first, p.second): p.distance for p in pairs_between(train, val)}
    assert found == {("a", "x"): 0, ("d", "x"): 0, ("b", "x"): 16, ("b", "y"): None, ("c", "z"): None}
    assert groups_within(train) == [["a", "d"]]
    assert pairs_between(train, {}) == []


@pytest.mark.data
def test_no_two_of_the_real_images_are_taken_for_one(shared):
    files = read_image_files([path for path in (shared / "tbx11k/imgs").rglob("*") if path.is_file()], {})
    assert len(files) >= 40
    halves = [{path: file for i, (path, file) in enumerate(files.items()) if i % 2 == half} for half in (0, 1)]
    assert pairs_between(*halves) == []
