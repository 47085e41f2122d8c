"""How 16-bit and turned images of a data folder are read: found before training, stored, and the same everywhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.annotations.split import load_split
from datasets.build import build_eval_loader, build_split, build_splits
from datasets.cache.build import ensure_cache
from datasets.checks.folder import check_folder
from datasets.checks.image_files import load_image_records, read_image_files, save_image_records
from datasets.dataset import load_image
from tests.datasets.test_build import DATA
from tests.helpers.files.deep import chunk, in_depth, png
from util.base.errors import DataError
from util.config import differences, load_config
from util.images.depth import FolderDepth, ReadingRules, SampleDepth
from util.training.checkpoints.auto_values import fill_from_checkpoint, fill_from_data
from util.training.checkpoints.checkpoint import CheckpointError
from util.training.run_state import RunState

GREY = np.random.default_rng(0).integers(0, 256, (40, 50))
GREY[0, :2] = 0, 255
DATA = replace(DATA, train_list="train", val_list="val")


def folder_of(path, write_image, ending="png", *, num=3, width=50, height=40):
    """A COCO folder of two lists, whose images `write_image(file, number)` writes."""
    (path / "annotations").mkdir(parents=True)
    for side in ("train", "val"):
        (path / side).mkdir()
        images = [
            {"id": n, "file_name": f"{side}{n}.{ending}", "width": width, "height": height} for n in range(1, num + 1)
        ]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 10]} for n in range(1, num + 1)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
        (path / f"annotations/instances_{side}.json").write_text(json.dumps(content))
        for image in images:
            write_image(path / side / image["file_name"], image["id"])
    return path


def deep(bits, **chunks):
    return lambda path, number: path.write_bytes(png(in_depth(GREY // number, bits), **chunks))


def turned(path, _number):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY.astype(np.uint8)).save(path, exif=exif)


def pixels(split, index=0):
    return np.asarray(load_image(split, index)).astype(int)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_training_reads_all_lists_by_the_depth_of_the_data_set(tmp_path, bits):
    folder = folder_of(tmp_path / "data", deep(bits))
    checked = build_splits(DATA, folder, num_classes=2)
    assert checked.depth.depth == bits
    assert checked.depth.is_guess == (bits < 16)
    for split in checked.splits.values():
        assert split.rules == ReadingRules(bits)
        assert np.abs(pixels(split) - GREY).max() <= 1
        assert np.abs(pixels(split, 2) - GREY // 3).max() <= 1  # a dark image stays dark
    assert build_split(DATA, folder, "val", num_classes=2).rules == ReadingRules(bits)
    fixed = replace(DATA, image_depth=16)
    assert build_split(fixed, folder, "val", num_classes=2, opens_images=False).rules == ReadingRules(16)


def test_loader_processes_read_by_the_rule(tmp_path):
    folder = folder_of(tmp_path / "data", deep(12))
    split = build_split(DATA, folder, "val", num_classes=2)
    plain = folder_of(tmp_path / "plain", lambda path, n: Image.fromarray((GREY // n).astype(np.uint8)).save(path))
    other = build_split(DATA, plain, "val", num_classes=2)
    for num_workers in (0, 2):
        data = replace(DATA, num_workers=num_workers)
        ours, reference = (list(build_eval_loader(s, data, batch_size=1)) for s in (split, other))
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a.images, b.images, atol=0.02, rtol=0)  # a grey level is 0.017


def test_headers_that_contradict_stop_the_training_and_the_setting_settles_it(tmp_path):
    folder = folder_of(tmp_path / "data", deep(14, before=chunk(b"sBIT", b"\x0c")))
    with pytest.raises(DataError, match=r"states 12 bits.*--options image_depth=14"):
        build_splits(DATA, folder, num_classes=2)
    assert build_splits(replace(DATA, image_depth=14), folder, num_classes=2).depth.depth == 14
    [error] = [finding for finding in check_folder(folder).findings if finding.severity == "error"]
    assert "states 12 bits" in error.text
    [error] = [f for f in check_folder(folder, depth_knob="--image_depth ").findings if f.severity == "error"]
    assert "; --image_depth 14 reads" in error.text
    assert not [finding for finding in check_folder(folder, 14).findings if finding.severity == "error"]


def test_the_check_says_the_depth(tmp_path):
    folder = folder_of(tmp_path / "data", deep(12))
    [found] = [finding for finding in check_folder(folder).findings if finding.kind == "image_depth"]
    assert found.severity == "warning"
    assert "are read as 12 bits, by their highest value 4095" in found.text
    stated = folder_of(tmp_path / "stated", deep(12, before=chunk(b"sBIT", b"\x0c")))
    [found] = [finding for finding in check_folder(stated).findings if finding.kind == "image_depth"]
    assert (found.severity, "12 bits, as the header" in found.text) == ("note", True)


def test_records_keep_what_tells_the_depth_whatever_the_rule(tmp_path):
    folder = folder_of(tmp_path / "data", deep(12))
    files = read_image_files(sorted((folder / "val").iterdir()), {})
    save_image_records(tmp_path / "run", files)
    assert load_image_records(tmp_path / "run") == files
    first = files[str(folder / "val/val1.png")]
    assert first.samples == SampleDepth(None, 4095)
    assert not first.is_blank
    plain = folder_of(tmp_path / "plain", lambda path, _: Image.fromarray(GREY.astype(np.uint8)).save(path))
    (same,) = read_image_files([plain / "val/val1.png"], {}).values()
    assert same.samples is None
    bits = np.unpackbits(np.frombuffer(bytes(a ^ b for a, b in zip(same.phash, first.phash, strict=True)), np.uint8))
    assert bits.sum() <= 2


def test_cached_pixels_of_another_depth_are_not_used(tmp_path, capsys):
    split = build_split(DATA, folder_of(tmp_path / "data", deep(12)), "val", num_classes=2)
    dark = replace(split, rules=ReadingRules(16))
    for one in (split, dark, split):
        images = ensure_cache(one, tmp_path / "cache", workers=1)
        assert np.array_equal(np.asarray(images(0)), pixels(one))
    assert capsys.readouterr().err.count("rebuilding it") == 2
    ensure_cache(split, tmp_path / "cache", workers=1)
    assert "rebuilding" not in capsys.readouterr().err


def test_the_depth_that_was_found_is_stored_with_the_run():
    loaded = load_config("config/DINO/DINO_tiny_phantom.py")
    assert loaded.data.image_depth == "auto"
    num = loaded.model.num_classes
    found = fill_from_data(loaded, num, 12)
    assert found.data.image_depth == 12
    assert fill_from_data(loaded, num, None) == loaded
    assert fill_from_data(found, num, 14).data.image_depth == 12
    assert FolderDepth().lines == []


@pytest.mark.parametrize(("recorded", "now", "is_same"), [(12, 12, True), (16, "auto", True), (12, 14, False)])
def test_a_resume_keeps_the_depth(tmp_path, recorded, now, is_same):
    changes = differences({"image_depth": recorded, "epochs": 1}, {"image_depth": now, "epochs": 2})
    check = RunState._check_depth
    if is_same:
        assert [change.knob for change in check(None, changes, tmp_path / "x.pth")] == ["epochs"]
    else:
        with pytest.raises(CheckpointError, match=r"read as 12 bits, now they are read as 14.*image_depth=12 keeps"):
            check(None, changes, tmp_path / "x.pth")


def test_turned_images_are_counted_and_named(tmp_path):
    folder = folder_of(tmp_path / "data", turned, "jpg")
    warnings = build_splits(DATA, folder, num_classes=2).warnings
    assert sum("3 of 3 images have an orientation tag" in line for line in warnings) == 2
    found = [finding for finding in check_folder(folder).findings if finding.kind == "turned"]
    assert [finding.severity for finding in found] == ["warning", "warning"]
    assert "train1.jpg (6)" in found[0].text


def test_a_record_of_the_turned_size_names_the_tag(tmp_path):
    folder = folder_of(tmp_path / "data", turned, "jpg", width=40, height=50)
    with pytest.raises(DataError, match=r"50 x 40 instead of 40 x 50, orientation tag 6\).*recorded after turning"):
        build_splits(DATA, folder, num_classes=2)
    split = load_split(folder / "val", folder / "annotations/instances_val.json")
    with pytest.raises(DataError, match="orientation tag 6; width and height were recorded after turning"):
        load_image(split, 0)


def test_a_checkpoint_older_than_the_knob_keeps_full_16_bits():
    loaded = load_config("config/DINO/DINO_tiny_phantom.py")
    older = {"config": {"num_classes": 4}}
    assert fill_from_checkpoint(loaded, older)[0].data.image_depth == 16
    assert fill_from_checkpoint(loaded, {})[0].data.image_depth == "auto"
