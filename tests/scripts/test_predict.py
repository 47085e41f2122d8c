"""scripts/predict.py, as a user runs it."""

import io
import json
import os
import re
import shutil
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.files.dicom import LOSSLESS_JPEG, write
from tests.helpers.predict import PIXELS, bad_files, lines, predict
from tests.helpers.training import load_script
from util.base import files
from util.distributed.exit_codes import run_to_exit_code
from util.metrics.files import load_detections
from util.training.checkpoints.checkpoint import load
from util.training.checkpoints.file import save

pytest_plugins = ["tests.helpers.training_fixtures", "tests.helpers.predict_fixtures"]


def test_the_detections_are_those_of_the_evaluation_and_score_the_same(trained, phantom, run, tmp_path):
    truth = phantom / "annotations/json/TBX11K_val.json"
    outcome = run(phantom / "imgs", "--annotations", truth)
    assert outcome.code == 0, outcome.err
    assert "17 images are skipped: the annotation file does not list them" in outcome.out
    ids = [image["id"] for image in json.loads(truth.read_text())["images"]]
    found, wanted = (
        load_detections(tmp_path / "out/detections.json", ids),
        load_detections(trained / "detections.json.gz", ids),
    )
    for image in ids:
        a, b = found.on([image]), wanted.on([image])
        np.testing.assert_allclose(a.score, b.score, atol=1e-5)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-2)
    scored = load_script("score")
    report = tmp_path / "report.json"
    arguments = ["--detections", tmp_path / "out/detections.json", "--truth", truth, "--output", report]
    with redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
        assert run_to_exit_code(scored.main) == 0
    trained_said, ours = json.loads((trained / "report.json").read_text()), json.loads(report.read_text())
    for key in ("all/per_class/AP", "all/agnostic/AP", "tb_only/agnostic/AP", "all/image/auc"):
        assert ours[key] == pytest.approx(trained_said[key], abs=1e-6), key


@pytest.mark.slow
def test_image_scores_are_those_of_the_evaluation(trained, phantom, run, tmp_path):
    run(phantom / "imgs", "--annotations", phantom / "annotations/json/TBX11K_val.json")
    wanted = {line["image_id"]: float(line["highest_score"]) for line in lines(trained / "per_image.csv")}
    told = {line["image_id"]: float(line["tb_score"]) for line in lines(tmp_path / "out/images.csv")}
    assert told == pytest.approx(wanted, abs=1e-5)


def test_all_kinds_of_files_go_through_in_one_call(run, tmp_path):
    room = tmp_path / "in"
    room.mkdir()
    deep = PIXELS.astype(np.uint16) * 257
    Image.fromarray(PIXELS).save(room / "grey.png")
    Image.fromarray(deep).save(room / "deep.png")
    Image.fromarray(np.dstack([PIXELS] * 4)).save(room / "rgba.png")
    Image.fromarray(np.dstack([PIXELS] * 3)).quantize(256).save(room / "palette.gif")
    Image.fromarray(np.dstack([PIXELS] * 4), mode="CMYK").save(room / "cmyk.jpg")
    write(room / "IM1", PIXELS)
    write(room / "jpeg.dcm", PIXELS, syntax=LOSSLESS_JPEG)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.fromarray(PIXELS).save(room / "turned.jpg", exif=exif)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(room / "grey.png", "nested/grey.png")
    outcome = run(room, tmp_path / "more.zip", "--draw", "all")
    assert outcome.code == 0, outcome.err
    told = {line["file_name"]: line for line in lines(tmp_path / "out/images.csv")}
    assert len(told) == 9
    assert (told["in/turned.jpg"]["width"], told["in/turned.jpg"]["height"]) == ("50", "40")  # as stored
    same = ("in/grey.png", "in/deep.png", "in/rgba.png", "in/IM1", "in/jpeg.dcm", "more.zip/nested/grey.png")
    assert len({round(float(told[name]["tb_score"]), 5) for name in same}) == 1
    assert all((tmp_path / "out" / line["picture"]).is_file() for line in told.values())


def test_bad_files_are_listed_and_do_not_stop_the_rest(run, tmp_path):
    room = bad_files(tmp_path / "in")
    Image.fromarray(PIXELS).save(room / "good.png")
    outcome = run(room)
    assert outcome.code == 3
    assert [line["file_name"] for line in lines(tmp_path / "out/images.csv")] == ["good.png"]
    listed = {Path(line["file"]).name: line["reason"] for line in lines(tmp_path / "out/unreadable.csv")}
    assert listed.keys() == {"empty.png", "text.jpg", "cut.png", "float.tif", "gone.png"}
    assert "5 could not be read" in outcome.err
    assert "Traceback" not in outcome.err
    page = (tmp_path / "out/summary.html").read_text()
    assert all(name in page for name in listed)
    for name in listed:
        (room / name).unlink()
    assert run(room).code == 0
    assert lines(tmp_path / "out/unreadable.csv") == []


def test_names_that_a_terminal_would_obey_or_cannot_encode_are_written_out(run, tmp_path, phantom):
    room = tmp_path / "in"
    room.mkdir()
    for name in (b"\xff.txt", b"\x1b[2J\nclear.png"):
        (room / os.fsdecode(name)).write_bytes(b"")
    shutil.copy(next((phantom / "imgs/tb").iterdir()), room / "x.png")
    outcome = run(room)
    assert outcome.code == 3
    assert "ignored, being no images (1): " in outcome.out
    assert "\\udcff.txt\n" in outcome.out
    assert "\\x1b[2J\\nclear.png: is no image" in outcome.err
    assert all(letter.isprintable() or letter == "\n" for letter in outcome.out + outcome.err)


@pytest.mark.slow
def test_only_bad_files_still_leave_whole_results(run, tmp_path):
    assert run(bad_files(tmp_path / "in")).code == 3
    assert json.loads((tmp_path / "out/detections.json").read_text()) == []
    assert (tmp_path / "out/summary.html").is_file()


@pytest.mark.slow
def test_pictures_of_files_of_one_name_do_not_overwrite_each_other(run, tmp_path):
    for place in ("a/x.png", "b/x.png", "b/x.jpg"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / place)
    assert run(tmp_path / "a", tmp_path / "b", "--draw", "all").code == 0
    pictures = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out/pictures").rglob("*.png"))
    assert pictures == ["pictures/a/x.png.png", "pictures/b/x.jpg.png", "pictures/b/x.png.png"]


@pytest.mark.parametrize("size", [(60, 50), (600, 500), (1500, 1300)])
def test_what_is_drawn_does_not_touch_what_is_detected(run, tmp_path, size):
    """`fitted` returns the image itself where its size is right."""
    Image.fromarray(PIXELS).resize(size).save(tmp_path / "x.png")
    found = []
    for draw in ("none", "all"):
        run(tmp_path / "x.png", "--draw", draw)
        assert lines(tmp_path / "out/images.csv")[0]["width"] == str(size[0])
        found.append(json.loads((tmp_path / "out/detections.json").read_text()))
        shutil.rmtree(tmp_path / "out")
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "num"), [("none", 0), ("positives", 1), ("all", 2)])
def test_what_is_drawn(run, tmp_path, phantom, draw, num):
    images = sorted((phantom / "imgs/tb").glob("*.png"))[:2]
    run(*images)
    scores = sorted(float(line["tb_score"]) for line in lines(tmp_path / "out/images.csv"))
    shutil.rmtree(tmp_path / "out")
    between = sum(scores) / 2
    assert run(*images, "--draw", draw, "--threshold", between).code == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == num
    assert sorted(line["is_positive"] for line in lines(tmp_path / "out/images.csv")) == ["0", "1"]
    boxes = lines(tmp_path / "out/detections.csv")
    assert boxes
    assert min(float(line["score"]) for line in boxes) >= between


@pytest.mark.slow
def test_the_output_may_lie_among_the_images(trained, tmp_path, phantom):
    room = tmp_path / "in"
    shutil.copytree(phantom / "imgs/tb", room)
    command = ["--checkpoint", trained / "checkpoint.pth", room, "--output_dir", room, "--draw", "all"]
    first, again = predict(*command), predict(*command)
    assert (first.code, again.code) == (0, 0), first.err + again.err
    num = len(list((phantom / "imgs/tb").iterdir()))
    assert len(lines(room / "images.csv")) == num
    assert f"{num} of {num} images are done already" in again.out


@pytest.mark.slow
def test_two_files_that_are_one_image_of_the_annotations_are_refused(run, tmp_path):
    for place in ("a/x.png", "b/x.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / place)
    listed = {"images": [{"id": 5, "file_name": "x.png", "width": 50, "height": 40}], "annotations": []}
    (tmp_path / "t.json").write_text(json.dumps({**listed, "categories": [{"id": 1, "name": "A"}]}))
    outcome = run(tmp_path / "a", tmp_path / "b", "--annotations", tmp_path / "t.json")
    assert outcome.code == 2
    assert "are both its image 5" in outcome.err
    (tmp_path / "t.json").write_text((tmp_path / "t.json").read_text().replace("x.png", "a/x.png"))
    assert run(tmp_path / "a", tmp_path / "b", "--annotations", tmp_path / "t.json").code == 0
    assert [line["image_id"] for line in lines(tmp_path / "out/images.csv")] == ["5"]


@pytest.mark.slow
def test_without_an_operating_point_boxes_count_from_a_score_that_is_told(trained, tmp_path, phantom):
    save(tmp_path / "c.pth", {**load(trained / "checkpoint.pth"), "operating_point": {}})
    outcome = predict("--checkpoint", tmp_path / "c.pth", phantom / "imgs/tb", "--output_dir", tmp_path / "out")
    assert outcome.code == 0
    assert "no operating point: the score threshold is 0.3" in outcome.err


@pytest.mark.slow
def test_merged_views_warn_about_the_operating_point(trained, phantom, tmp_path):
    point = {"rule": "youden", "target": 0.9, "threshold": 0.01}
    save(tmp_path / "c.pth", {**load(trained / "checkpoint.pth"), "operating_point": point})
    command = ["--checkpoint", tmp_path / "c.pth", phantom / "imgs/tb", "--output_dir", tmp_path / "out"]
    outcome = predict(*command, "--flip", "--scales", 64, 96, "--merge", "nms", "--merge_iou", 0.6)
    assert outcome.code == 0, outcome.err
    assert "merged scores are distributed differently" in outcome.err


@pytest.mark.slow
def test_several_checkpoints_answer_together_wherever_they_stand(trained, tmp_path, phantom):
    both = ["--checkpoint", trained / "checkpoint.pth", trained / "best.pth"]
    first = predict(*both, phantom / "imgs/tb", "--output_dir", tmp_path / "a")
    second = predict(phantom / "imgs/tb", "--output_dir", tmp_path / "b", *both)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (tmp_path / "a/detections.json").read_bytes() == (tmp_path / "b/detections.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--batch_size", 0], "--batch_size must be at least 1"),
        (["--threshold", 2], "--threshold must lie in [0, 1]"),
        (["--merge_iou", 1], "--merge_iou must lie between"),
        (["--scales", 8], "--scales must be different sizes from 32"),
        (["--scales", 64, 64], "--scales must be different sizes"),
        (["--options", "focal_alpa=1"], "did you mean 'focal_alpha'"),
        (["--annotations", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_wrong_value_is_refused(run, phantom, tmp_path, arguments, phrase):
    outcome = run(phantom / "imgs/tb", *arguments)
    assert outcome.code == 2
    assert phrase in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(run, phantom, tmp_path):
    (tmp_path / "out").write_text("a file")
    outcome = run(phantom / "imgs/tb")
    assert outcome.code == 2
    assert "choose another --output_dir" in outcome.err


def test_no_input_and_no_checkpoint_are_refused(trained, tmp_path):
    outcome = predict("--checkpoint", trained / "checkpoint.pth", "--output_dir", tmp_path / "out")
    assert (outcome.code, "required: IMAGES" in outcome.err) == (2, True)
    outcome = predict("--checkpoint", tmp_path / "no.pth", tmp_path, "--output_dir", tmp_path / "out")
    assert outcome.code == 2


def test_a_full_disk_is_one_error(run, phantom, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    outcome = run(phantom / "imgs/tb", "--draw", "all")
    assert outcome.code == 2
    assert outcome.err.count("error:") == 1
    assert "No space left on device" in outcome.err
    assert "Free some space" in outcome.err


def test_every_option_has_a_sentence_and_is_tried_here():
    said = predict("--help").out
    flags = set(re.findall(r"(?<![\w-])--[a-z_]+", said)) - {"--help"}
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_predict*.py"))
    assert len(flags) >= 12
    assert not {flag for flag in flags if f'"{flag}"' not in source}
    parser_lines = re.findall(r"^  (--\w+|IMAGES)(.*(?:\n {20,}.*)*)", said, re.M)
    assert len(parser_lines) == len(flags) + 1
    assert all(re.search(r"[a-z]+ [a-z]+ [a-z]+", text) for _, text in parser_lines)


@pytest.mark.slow
@pytest.mark.data
def test_real_x_rays_and_dicom_go_through_in_one_call(trained, shared, tmp_path):
    for bits, kind in ((8, "MONOCHROME2"), (12, "MONOCHROME1"), (16, "MONOCHROME2")):
        write(tmp_path / f"{bits}.dcm", PIXELS.astype(np.uint16), bits=bits, kind=kind)
    images = shared / "tbx11k/imgs"
    num = sum(p.suffix in (".png", ".jpg") for p in images.rglob("*"))
    outcome = predict(
        "--checkpoint", trained / "checkpoint.pth", images, *tmp_path.glob("*.dcm"), "--output_dir", tmp_path / "out"
    )
    assert outcome.code == 0, outcome.err
    assert len(lines(tmp_path / "out/images.csv")) == num + 3
