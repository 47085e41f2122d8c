"""The small tools of scripts/, as a user runs them: each makes its file, and says in one line what it cannot do."""

import importlib
import json

import pytest
from PIL import Image

from tests.helpers.training import ROOT, call_apart
from util.distributed.exit_codes import run_to_exit_code

pytest_plugins = ["tests.helpers.training_fixtures"]


def assert_told(outcome, *phrases):
    """Code 2, one line, no traceback."""
    assert outcome.code == 2, outcome.out + outcome.err
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    missing = [str(phrase) for phrase in phrases if str(phrase) not in outcome.err]
    assert not missing, f"{missing} not in {outcome.err}"


@pytest.mark.slow
def test_make_phantom_makes_it_once(tmp_path):
    command = ["scripts/make_phantom.py", "--output_dir", tmp_path / "p", "--train", 4, "--val", 2, "--size", 64]
    made = call_apart(*command, "--workers", 1)
    assert (made.code, made.err) == (0, "")
    record = json.loads((tmp_path / "p/annotations/json/TBX11K_train.json").read_text())
    assert len(record["images"]) == 4
    assert all(Image.open(tmp_path / "p/imgs" / image["file_name"]).size == (64, 64) for image in record["images"])
    again = call_apart(*command)
    assert (again.code, again.out) == (0, f"{tmp_path / 'p'} holds exactly this phantom already; nothing to do\n")


@pytest.mark.slow
def test_make_phantom_leaves_another_phantom_alone(phantom):
    outcome = call_apart("scripts/make_phantom.py", "--output_dir", phantom, "--train", 4, "--val", 2)
    assert_told(outcome, phantom, "holds synthetic X-rays of other settings", "train 12 instead of 4")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--train", 4], "--train and --val are needed"),
        (["--train", 4, "--val", 2, "--seed", -1], "seed must be at least 0, got -1"),
        (["--train", 4, "--val", 2, "--limit", 3], "--limit needs --like"),
        (["--like", "nowhere"], "nowhere"),
    ],
)
def test_make_phantom_says_what_it_cannot_do(tmp_path, arguments, phrase):
    outcome = call_apart("scripts/make_phantom.py", "--output_dir", tmp_path / "p", *arguments)
    assert_told(outcome, phrase)
    assert not (tmp_path / "p").exists()


def test_plot_run_draws_the_curves_of_a_run(trained, tmp_path):
    outcome = call_apart("scripts/plot_run.py", trained, "--output", tmp_path / "curves.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{tmp_path / 'curves.png'}\n", "")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10


def test_plot_run_compares_runs_beside_the_first(trained, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_bytes((trained / "log.jsonl").read_bytes())
    outcome = call_apart("scripts/plot_run.py", tmp_path / "a", tmp_path / "b/")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{tmp_path / 'compare.png'}\n", "")
    with Image.open(tmp_path / "compare.png") as image:
        assert image.width > 1000


def test_plot_run_says_that_there_is_no_log(tmp_path):
    outcome = call_apart("scripts/plot_run.py", tmp_path)
    assert_told(outcome, f"no log found: {tmp_path / 'log.jsonl'}; expected the folder of a run")


@pytest.mark.slow
def test_plot_run_says_that_it_cannot_write(trained, tmp_path):
    assert_told(call_apart("scripts/plot_run.py", trained, "--output", tmp_path / "no/c.png"), "no/c.png")
    assert_told(call_apart("scripts/plot_run.py", trained, "--output", tmp_path / "c.xyz"), "xyz")


def test_show_detections_draws_the_sheet_of_a_run(trained, phantom, tmp_path):
    command = ["scripts/show_detections.py", trained, "--data_path", phantom, "--num_images", 4]
    outcome = call_apart(*command, "--output", tmp_path / "sheet.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{tmp_path / 'sheet.png'}\n", "")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 1000
        assert (93, 255, 110) in {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}  # a true box


@pytest.mark.slow
def test_show_detections_says_what_is_missing(trained, phantom, tmp_path):
    script = "scripts/show_detections.py"
    assert_told(call_apart(script, tmp_path, "--data_path", phantom), tmp_path / "config.py")
    assert_told(call_apart(script, trained, "--data_path", tmp_path), tmp_path, "--data_path")
    (tmp_path / "config.py").write_bytes((trained / "config.py").read_bytes())
    outcome = call_apart(script, tmp_path, "--data_path", phantom)
    assert_told(outcome, f"detections file not found: {tmp_path / 'detections.json.gz'}")


SHOW = ["scripts/show_batch.py", "-c", "config/DINO/DINO_tiny_phantom.py", "--data_path"]


@pytest.mark.slow
def test_show_batch_draws_what_training_sees(phantom, tmp_path):
    knobs = ["positive_fraction=0.5", "data_aug_rotate=10", "data_aug_square=False", "data_aug_crop=0.5"]
    outcome = call_apart(*SHOW, phantom, "--num_images", 6, "--output", tmp_path / "sheet.png", "--options", *knobs)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{tmp_path / 'sheet.png'}\n", "")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 1000
        assert (93, 255, 110) in {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}  # a true box


@pytest.mark.slow
def test_show_batch_says_what_it_cannot_do(phantom, tmp_path):
    where = ["--output", tmp_path / "sheet.png"]
    assert_told(call_apart(*SHOW, phantom, *where, "--step", 3), "--step 3: the epoch has 3 steps")
    assert_told(call_apart(*SHOW, tmp_path, *where), tmp_path)
    knobs = ["--options", "positive_fraction=0.5", "repeat_threshold=0.1"]
    outcome = call_apart(*SHOW, phantom, *where, *knobs)
    assert (outcome.code, outcome.err.count("set one of them to 0")) == (2, 1)
    assert not (tmp_path / "sheet.png").exists()


TOOLS = [path.stem for path in sorted((ROOT / "scripts").glob("*.py")) if "run_program(main)" in path.read_text()]


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_has_help_and_refuses_an_unknown_flag_in_one_line(name, monkeypatch, capsys):
    script = importlib.import_module(f"scripts.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit):
        run_to_exit_code(script.main)
    assert capsys.readouterr().out.startswith(f"usage: {name} ")
    monkeypatch.setattr("sys.argv", [name, "--unknown_flag"])
    assert run_to_exit_code(script.main) == 2
    told = capsys.readouterr().err
    assert (told.startswith("error: "), told.count("\n")) == (True, 1)
