"""`from models import load_detector`: a checkpoint alone finds what its evaluation in training found."""

import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import load_detector
from models.inference.detector import Detector, View
from tests.helpers.files.deep import in_depth, png
from tests.helpers.files.dicom import write
from util.base.errors import DataError, UserError
from util.detection.fusion import build_merge, fuse_weighted
from util.metrics.files import load_detections
from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.file import save

pytest_plugins = ["tests.helpers.training_fixtures"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def detector(trained):
    return load_detector(trained / "checkpoint.pth", device="cpu")


@pytest.fixture(scope="module")
def image(phantom):
    return sorted((phantom / "imgs/tb").glob("*.png"))[0]


def rows(found, number=1):
    kept = found.image_id == number
    return np.column_stack([found.score[kept], found.label[kept], found.xyxy[kept]])


def changed(trained, path, **changes):
    """A checkpoint with other content; None takes a key out."""
    content = {**load(trained / "checkpoint.pth"), **changes}
    save(path, {key: value for key, value in content.items() if value is not None})
    return path


def test_it_finds_what_the_evaluation_in_training_found(detector, trained, phantom):
    from datasets.annotations.split import load_split

    split = load_split(phantom / "imgs", phantom / "annotations/json/TBX11K_val.json")
    wanted = load_detections(trained / "detections.json.gz", split.image_ids.tolist())
    found = detector(*(phantom / "imgs" / name for name in split.file_names))
    assert found.images == tuple(range(1, split.num_images + 1))
    for number, image_id in enumerate(split.image_ids.tolist(), start=1):
        np.testing.assert_allclose(rows(found, number), rows(wanted, image_id), rtol=1e-4, atol=1e-4)


def test_names_and_operating_point_come_with_it(detector, trained):
    content = load(trained / "checkpoint.pth")
    assert detector.names == {int(k): v for k, v in content["category_names"].items()}
    assert detector.threshold == content["operating_point"].get("threshold")


def test_a_path_a_picture_and_pixels_are_the_same_image(detector, image, tmp_path):
    pixels = np.asarray(Image.open(image).convert("RGB"))
    grey = pixels[..., 0]
    wanted = rows(detector(image))
    for given in (str(image), Image.open(image), pixels):
        np.testing.assert_array_equal(rows(detector(given)), wanted)
    write(tmp_path / "x.dcm", grey)
    np.testing.assert_array_equal(rows(detector(grey)), rows(detector(tmp_path / "x.dcm")))


def test_boxes_are_in_pixels_of_the_file(detector, image):
    large = Image.open(image).convert("RGB").resize((256, 256), Image.Resampling.NEAREST)
    small = rows(detector(np.asarray(large)[::2, ::2].copy()))
    assert small[:, 2:].max() <= 128 * 1.5
    assert rows(detector(large))[:, 2:].max() > 128


def test_no_images_give_an_empty_table(detector):
    assert (len(detector()), detector().images) == (0, ())


@pytest.mark.parametrize(
    ("content", "phrase"),
    [(b"", "cannot be read as an image"), (b"no image", "cannot be read"), (None, "No such file")],
)
def test_a_bad_file_is_one_clear_error(detector, tmp_path, content, phrase):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.png: .*{phrase}"):
        detector(tmp_path / "x.png")


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_an_array_that_is_no_image_is_refused(detector, array):
    with pytest.raises(DataError, match="8-bit pixels"):
        detector(array)


def test_mirrored_looks_find_the_same_as_the_mirrored_image(trained, image):
    detector = load_detector(trained / "checkpoint.pth", device="cpu", flip=True)
    plain, mirrored = detector.views
    picture = Image.open(image).convert("RGB")
    turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found, wanted = mirrored.detect([mirrored.prepare(picture)])[0], plain.detect([plain.prepare(turned)])[0]
    left, top, right, bottom = wanted["boxes"].unbind(1)
    torch.testing.assert_close(found["scores"], wanted["scores"], rtol=1e-4, atol=1e-5)
    back = torch.stack([picture.width - right, top, picture.width - left, bottom], 1)
    torch.testing.assert_close(found["boxes"], back, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_views_are_merged(trained, image):
    detector = load_detector(
        trained / "checkpoint.pth", trained / "best.pth", device="cpu", flip=True, scales=[96, 128]
    )
    assert len(detector.views) == 8
    assert {view.scale for view in detector.views} == {96, 128}
    picture = Image.open(image).convert("RGB")
    answers = [view.detect([view.prepare(picture)])[0] for view in detector.views]
    wanted = fuse_weighted(answers, 0.55)
    np.testing.assert_allclose(detector(image).score, wanted["scores"][:20].double(), rtol=1e-6)


@pytest.mark.slow
def test_a_larger_scale_keeps_the_frame(trained):
    views = load_detector(trained / "checkpoint.pth", device="cpu", scales=[96, 192]).views
    assert [(view.scale, view.max_size) for view in views] == [(96, 128), (192, 256)]


@pytest.mark.parametrize("lacking", ["config", "category_names"])
def test_a_checkpoint_that_is_not_enough_says_so(trained, tmp_path, lacking):
    path = changed(trained, tmp_path / "c.pth", **{lacking: None})
    with pytest.raises(CheckpointError, match=rf"c\.pth: holds no {lacking}, .*writes one that does"):
        load_detector(path, device="cpu")


def test_weights_that_changed_on_the_disk_are_noticed(trained, tmp_path):
    content = bytearray((trained / "checkpoint.pth").read_bytes())
    weights = next(w for w in load(trained / "checkpoint.pth")["model"].values() if w.numel() > 5000)
    place = bytes(content).find(weights.numpy().tobytes())
    assert place > 0
    content[place + 100 : place + 200] = bytes(100)
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth: is damaged: .* is not what was written\. Copy it again"):
        load_detector(tmp_path / "c.pth", device="cpu")


@pytest.mark.slow
def test_an_ensemble_needs_the_same_categories(trained, tmp_path):
    other = changed(trained, tmp_path / "other.pth", category_names={"1": "A", "2": "B", "3": "C"})
    with pytest.raises(CheckpointError, match=r"other\.pth: detects .*the same categories"):
        load_detector(trained / "checkpoint.pth", other, device="cpu")


def test_a_missing_operating_point_is_none(trained, tmp_path):
    path = changed(trained, tmp_path / "c.pth", operating_point={})
    assert load_detector(path, device="cpu").threshold is None


def test_knobs_may_be_changed_and_are_checked(trained):
    assert (
        len(
            load_detector(trained / "checkpoint.pth", device="cpu", options=["num_select=3"])(
                np.zeros((64, 64), np.uint8)
            )
        )
        == 3
    )
    with pytest.raises(UserError, match="num_selekt"):
        load_detector(trained / "checkpoint.pth", device="cpu", options=["num_selekt=3"])


def examples():
    """The Python that the class and the page on prediction show."""
    text = textwrap.dedent(f"    {Detector.__doc__}")
    yield re.search(r"\n( +detector = .*?print\(.*?\n)", text, re.S)[1]
    page = (ROOT / "docs/predict.md").read_text()
    yield re.search(r"\n( +from models import load_detector\n.*?print\(.*?\n)", page, re.S)[1]


@pytest.mark.parametrize("example", [*examples()], ids=["class", "page"])
def test_an_example_runs(trained, image, tmp_path, monkeypatch, capsys, example):
    (tmp_path / "logs/RUN").mkdir(parents=True)
    shutil.copy(trained / "checkpoint.pth", tmp_path / "logs/RUN/best.pth")
    shutil.copy(image, tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(example), {"load_detector": load_detector})
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_a_16_bit_file_is_read_by_the_depth_it_uses(tmp_path, capsys):
    grey = np.random.default_rng(0).integers(0, 256, (40, 50))
    grey[0, 0] = 255
    seen = []

    def network(batch):
        seen.append(batch.images)
        empty = {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
        return [empty] * len(batch.images)

    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "8.png")
    (tmp_path / "12.png").write_bytes(png(in_depth(grey, 12)))
    for depth in (None, 12):
        merge = build_merge("wbf", 0.5, 12)
        detector = Detector([View(network, 40, 64)], merge, names={}, threshold=None, image_depth=depth)
        detector(tmp_path / "8.png", tmp_path / "12.png", tmp_path / "12.png")
        assert (seen[-1] - seen[-3]).abs().max() < 0.02  # a grey level is 0.017
        note = "12.png: its 16-bit samples are read as 12 bits, by their highest value 4095"
        assert capsys.readouterr().err.count(note) == (1 if depth is None else 0)
