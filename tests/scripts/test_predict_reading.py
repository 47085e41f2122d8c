"""scripts/predict.py on 16-bit, turned and DICOM images, with a detector that only notes what it gets."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.files.deep import chunk, in_depth, png
from tests.helpers.files.dicom import values, write
from tests.helpers.predict import PREDICT, lines, predict
from util.detection.batch import Sample
from util.images.depth import ReadingRules

GREY = np.random.default_rng(0).integers(0, 256, (40, 50))
GREY[0, :2] = 0, 255


class Noting:
    """A detector with one box on every image, which keeps the pixels of each."""

    def __init__(self):
        self.names = {1: "a"}
        self.threshold = 0.5
        self.rules = ReadingRules()
        self.views = (None,)
        self.pixels = []

    def prepare(self, image):
        self.pixels.append(np.asarray(image).astype(int))
        return (Sample(torch.zeros(3, 32, 32), {}),)

    def detect(self, images):
        one = {"scores": [0.9], "labels": [1], "boxes": [[1.0, 2.0, 3.0, 4.0]]}
        return [{name: torch.tensor(value) for name, value in one.items()} for _ in images]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Predict into tmp_path/out: the outcome, and the pixels that the detector got."""
    (tmp_path / "x.pth").write_bytes(b"a checkpoint")

    def call(*arguments):
        detector = Noting()
        monkeypatch.setattr(PREDICT, "load", lambda *_: detector)
        output = ["--output_dir", tmp_path / "out", "--draw", "none", "--batch_size", "1"]
        return predict("--checkpoint", tmp_path / "x.pth", *arguments, *output), detector.pixels

    return call


def folder_of(path, **content):
    path.mkdir()
    for name, data in content.items():
        (path / f"{name}.png").write_bytes(data)
    return path


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_folder_is_read_by_the_depth_of_all_its_images(run, tmp_path, bits, is_zip):
    folder = folder_of(tmp_path / "in", a=png(in_depth(GREY, bits)), b=png(in_depth(GREY // 4, bits), "rgb"))
    if is_zip:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
        folder = tmp_path / "in.zip"
    outcome, pixels = run(folder)
    assert outcome.code == 0, outcome.err
    for found, expected in zip(sorted(pixels, key=np.max, reverse=True), (GREY, GREY // 4), strict=True):
        assert np.abs(found - expected).max() <= 1
    text = f"2 images of 16-bit samples are read as {bits} bits, by their highest value {(1 << bits) - 1}"
    assert text in (outcome.out if bits == 16 else outcome.err)
    assert f"are read as {bits} bits" in (tmp_path / "out/summary.html").read_text()


def test_the_depth_can_be_set_and_belongs_to_the_results(run, tmp_path):
    folder = folder_of(tmp_path / "in", a=png(in_depth(GREY, 12)))
    outcome, (pixels,) = run(folder, "--image_depth", "14")
    assert outcome.code == 0, outcome.err
    assert np.abs(pixels - GREY / 4).max() <= 1
    outcome, _ = run(folder)
    assert outcome.code == 2
    assert "image_depth 14 instead of 12" in outcome.err
    assert run(folder, "--image_depth", "9")[0].code == 2


def test_headers_that_contradict_the_values_are_one_error(run, tmp_path):
    folder = folder_of(tmp_path / "in", a=png(in_depth(GREY, 14), before=chunk(b"sBIT", b"\x0c")))
    outcome, _ = run(folder)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "--image_depth 14 reads the values" in outcome.err
    assert run(folder, "--image_depth", "14")[0].code == 0


@pytest.mark.parametrize("orientation", ["stored", "apply"])
def test_boxes_are_in_the_frame_of_the_orientation(run, tmp_path, orientation):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "in/a.png", exif=exif)
    outcome, (pixels,) = run(tmp_path / "in", "--orientation", orientation)
    assert outcome.code == 0, outcome.err
    assert "1 of 1 images have an orientation tag by which viewers turn them: a.png (6)" in outcome.err
    is_turned = orientation == "apply"
    assert np.array_equal(pixels, GREY[::-1].T if is_turned else GREY)
    (line,) = lines(tmp_path / "out/images.csv")
    assert (line["width"], line["height"]) == (("40", "50") if is_turned else ("50", "40"))
    assert line.get("turned_by_tag") == ("6" if is_turned else None)
    (image,) = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert (image["width"], image["height"]) == ((40, 50) if is_turned else (50, 40))


def test_what_is_no_frontal_chest_radiograph_is_listed_apart(run, tmp_path):
    (tmp_path / "in").mkdir()
    for name, elements in {
        "chest": {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA"},
        "leg": {"Modality": "DX", "BodyPartExamined": "LEG"},
        "lateral": {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "LL"},
        "ct": {"Modality": "CT"},
    }.items():
        write(tmp_path / f"in/{name}.dcm", values(8), **elements)
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "in/plain.png")
    outcome, pixels = run(tmp_path / "in")
    assert (outcome.code, len(pixels)) == (3, 2), outcome.err
    assert "3 are no frontal chest radiographs by their header and are not predicted" in outcome.err
    chest, plain = lines(tmp_path / "out/images.csv")
    assert (chest["modality"], chest["body_part"], chest["view"]) == ("CR", "CHEST", "PA")
    assert (plain["file_name"], plain["modality"], plain["body_part"], plain["view"]) == ("plain.png", "", "", "")
    excluded = {line["file"].rpartition("/")[2]: line for line in lines(tmp_path / "out/excluded.csv")}
    assert excluded.keys() == {"leg.dcm", "lateral.dcm", "ct.dcm"}
    assert excluded["leg.dcm"]["reason"] == "body part LEG instead of CHEST"
    assert (excluded["lateral.dcm"]["view"], excluded["ct.dcm"]["modality"]) == ("LL", "CT")
    assert lines(tmp_path / "out/unreadable.csv") == []
    assert "3 are no frontal chest radiographs" in (tmp_path / "out/summary.html").read_text()

    outcome, pixels = run(tmp_path / "in", "--force")  # goes on where it was
    assert (outcome.code, len(pixels)) == (0, 3), outcome.err
    assert len(lines(tmp_path / "out/images.csv")) == 5
    assert lines(tmp_path / "out/excluded.csv") == []


def test_without_dicom_and_turning_the_tables_are_as_before(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "in/a.png")
    outcome, _ = run(tmp_path / "in")
    assert (outcome.code, outcome.err) == (0, "")
    (line,) = lines(tmp_path / "out/images.csv")
    columns = ["image_id", "file_name", "width", "height", "image_score", "is_positive", "boxes", "picture"]
    assert [*line] == columns
    assert not (tmp_path / "out/excluded.csv").exists()
    settings = json.loads((tmp_path / "out/progress.jsonl").read_text().split("\n")[0])["settings"]
    assert not settings.keys() & {"image_depth", "orientation"}


def test_an_annotation_file_needs_images_alone(run, tmp_path):
    folder = folder_of(tmp_path / "in", a=png(GREY), b=png(GREY))
    (tmp_path / "list.json").write_text(json.dumps({"images": [{"id": 7, "file_name": "b.png"}]}))
    outcome, pixels = run(folder, "--annotations", tmp_path / "list.json")
    assert (outcome.code, len(pixels)) == (0, 1), outcome.err
    assert [line["image_id"] for line in lines(tmp_path / "out/images.csv")] == ["7"]
