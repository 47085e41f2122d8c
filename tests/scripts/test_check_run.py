"""The doctor at work: inside training, and through scripts/check_run.py."""

import json
from pathlib import Path

import pytest

from tests.helpers.training import ONE_EPOCH, call, call_apart, load_script, rows, torchrun, training
from util.distributed.exit_codes import run_to_exit_code

pytest_plugins = ["tests.helpers.training_fixtures"]
SHARED = Path(__file__).resolve().parents[3] / "shared/eval"
CHECK = load_script("check_run")
STANDSTILL = {"lr": 0.0, "lr_backbone": 0.0, "on_failing": "stop"}


def checked(*arguments):
    outcome = call_apart("scripts/check_run.py", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_a_run_of_a_few_steps_is_no_ground_for_a_verdict(trained):
    found = checked(trained)
    assert found["verdict"] == "cannot tell"
    assert found["evidence"]["class_error_n"] > 0
    assert found["artefacts"] == []


HOSTILE = "x\nverdict: healthy\x1b[2J\r\u202e\udcff"


def test_a_log_of_a_stranger_steers_no_terminal_and_forges_no_verdict(trained, tmp_path, monkeypatch, capsys):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    for row in lines:
        row |= {"weights": HOSTILE, HOSTILE: 1.0, "category_names": dict.fromkeys("123", HOSTILE)}
    (tmp_path / HOSTILE).mkdir()
    (tmp_path / HOSTILE / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    monkeypatch.setattr("sys.argv", ["check_run.py", str(tmp_path / HOSTILE)])
    assert run_to_exit_code(CHECK.main) == 0
    out, err = capsys.readouterr()
    assert r"categories 2 (x\nverdict: healthy" in out
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)
    assert out.count("\nverdict: ") == out.count("\nverdict: cannot tell") == 1


@pytest.mark.parametrize("text", [f"{{{HOSTILE}", json.dumps({"epoch": 0, HOSTILE: HOSTILE, "train_loss": 1.0})])
def test_an_official_log_of_a_stranger_steers_no_terminal(text, tmp_path, monkeypatch, capsys):
    (tmp_path / HOSTILE).write_text(text, errors="surrogateescape")
    monkeypatch.setattr("sys.argv", ["check_run.py", str(tmp_path / HOSTILE)])
    assert run_to_exit_code(CHECK.main) in (0, 2)
    out, err = capsys.readouterr()
    assert out + err
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)


def test_training_says_the_verdict_after_every_epoch(trained):
    console = (trained / "console.txt").read_text()
    assert console.count("\ndoctor: cannot tell") == 2


def test_a_failing_run_stops_where_it_is_told_to_and_keeps_its_checkpoint(phantom, tmp_path):
    outcome = call(*training(phantom, tmp_path / "run", **STANDSTILL))
    assert outcome.code == 1
    assert "error: the doctor calls this run failing, and on_failing is 'stop'" in outcome.err
    assert "learning_rate_zero: the learning rate is 0 in epoch 0" in outcome.out
    assert (tmp_path / "run/checkpoint.pth").exists()
    assert len(rows(tmp_path / "run", "epoch")) == 1
    assert checked(tmp_path / "run")["causes"][0]["name"] == "learning_rate_zero"


def test_a_failing_run_goes_on_where_it_is_only_warned(phantom, tmp_path):
    outcome = call(*training(phantom, tmp_path / "run", **{**STANDSTILL, **ONE_EPOCH, "on_failing": "warn"}))
    assert outcome.code == 0
    assert "doctor: failing" in outcome.out


@pytest.mark.slow
def test_two_ranks_stop_together(phantom, tmp_path):
    outcome = torchrun(2, *training(phantom, tmp_path / "run", **{**STANDSTILL, "gradient_accumulation_steps": 1}))
    assert outcome.code == 1
    assert outcome.err.count("the doctor calls this run failing") == 1


def test_text_is_for_people(trained):
    outcome = call_apart("scripts/check_run.py", trained)
    assert outcome.code == 0
    assert "verdict: cannot tell" in outcome.out


@pytest.mark.parametrize(
    ("content", "phrase"),
    [(None, "does not exist"), (b"\x00\xff garbage \x01" * 50, "found neither"), (b"", "found neither")],
)
def test_what_is_no_log_is_one_clear_error(tmp_path, content, phrase):
    if content is not None:
        (tmp_path / "some.log").write_bytes(content)
    outcome = call_apart("scripts/check_run.py", tmp_path / "some.log")
    assert outcome.code == 2
    assert phrase in outcome.err
    assert "some.log" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_folder_without_a_log_is_one_clear_error(tmp_path):
    outcome = call_apart("scripts/check_run.py", tmp_path)
    assert (outcome.code, "no log.jsonl and no log.txt" in outcome.err) == (2, True)


@pytest.mark.data
@pytest.mark.parametrize(("name", "verdict"), [("failed", "failing"), ("healthy", "healthy")])
def test_real_logs_of_a_fork_are_told_apart(name, verdict):
    path = SHARED / f"fork_{name}.log.txt"
    if not path.exists():
        pytest.skip("no real logs beside the repository")
    found = checked(path)
    assert found["verdict"] == verdict
    assert found["epoch"] <= 13
    artefacts = " ".join(found["artefacts"])
    assert "class_error" in artefacts
    assert "cardinality_error" in artefacts


@pytest.mark.data
def test_the_console_of_a_healthy_fork_is_not_called_failing():
    path = SHARED / "fork_healthy_console_excerpt.out"
    if not path.exists():
        pytest.skip("no real logs beside the repository")
    found = checked(path)
    assert found["verdict"] in ("healthy", "cannot tell")
    assert any("class_error" in text for text in found["artefacts"])


def test_a_run_folder_of_the_official_code_is_read_with_the_settings_it_printed(tmp_path):
    rows = [{"epoch": n, "train_loss": 9.0 - n, "train_loss_ce_unscaled": 0.5, "train_lr": 1e-4} for n in range(3)]
    (tmp_path / "log.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "info.txt").write_text("args: Namespace(focal_alpha=0.25, num_queries=300)\n")
    assert checked(tmp_path)["evidence"]["epoch"] == 2
    (tmp_path / "log.txt").unlink()
    outcome = call_apart("scripts/check_run.py", tmp_path)
    assert (outcome.code, "found neither" in outcome.err) == (2, True)
