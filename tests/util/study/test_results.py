"""The rows of a study: made from a run's folder, kept, read back, and refused where they are not what they seem."""

import json
from dataclasses import asdict, replace

import pytest

from scripts.measure.study_suites import SMOKE
from util.base.errors import UserError
from util.study.results import (
    load_result,
    load_results,
    read_metrics,
    require_same_settings,
    result_of,
    save_result,
    save_results,
)

RUNS = SMOKE.runs(2)
SKILLS = (-0.4, 0.25)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that has ended."""
    start = {"kind": "start", "epoch": 0, "step": 0, "config": {"num_queries": 30, "epochs": 2}}
    epochs = [{"kind": "epoch", "epoch": n, "step": 6 * n + 6, "class_skill": s} for n, s in enumerate(SKILLS)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [start, *epochs]))
    report = {"all/agnostic/AP50": 0.123456789, "all/image/auc": 0.5, "all/agnostic/AP50/ci95": [0.1, 0.2]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    return tmp_path


def test_a_row_holds_what_report_log_and_doctor_say(folder):
    row = result_of(RUNS[1], folder, 0, 12.34)
    assert row.key == ("alpha75", 0)
    assert (row.is_done, row.seconds, row.verdict) == (True, 12.3, "cannot tell")
    assert row.metrics == {"AP50": 0.123457, "auc": 0.5}
    assert row.series("class_skill") == list(SKILLS)
    assert row.settings["focal_alpha"] == 0.75
    assert row.phantom == {"train": 24, "val": 24, "size": 96, "seed": 0}


def test_a_run_that_failed_has_a_row_without_figures_and_is_not_done(tmp_path):
    row = result_of(RUNS[0], tmp_path, 1, 3.0)
    assert (row.is_done, row.exit_code, row.metrics, row.epochs) == (False, 1, {}, [])


def test_a_finished_run_without_its_report_is_an_error(folder):
    (folder / "report.json").write_text('{"all/agn')
    with pytest.raises(UserError, match=r"report\.json: the report of a finished run cannot be read"):
        result_of(RUNS[0], folder, 0, None)
    (folder / "report.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object, got a list"):
        read_metrics(folder / "report.json", SMOKE.metrics)


def test_a_row_comes_back_from_its_folder_as_it_was(folder):
    row = result_of(RUNS[0], folder, 0, None)
    assert load_result(folder) is None
    save_result(row, folder)
    assert load_result(folder) == row


def test_rows_are_kept_by_seed_and_in_the_order_of_the_cells(folder):
    rows = [result_of(run, folder, 0, 1.0) for run in RUNS]
    file = folder / "study/smoke.jsonl"
    save_results(file, SMOKE, reversed(rows))
    assert list(load_results(file, SMOKE)) == [(run.cell.name, run.seed) for run in RUNS]
    assert list(load_results(file, SMOKE).values()) == rows


def test_without_a_file_there_are_no_rows(tmp_path):
    assert load_results(tmp_path / "none.jsonl", SMOKE) == {}


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        (lambda line: line[:40], "smoke.jsonl:2: no JSON, perhaps cut short"),
        (lambda _: "", "smoke.jsonl:2: no JSON"),
        (lambda _: "[1]", "smoke.jsonl:2: no row of a study (missing or unknown: a list)"),
        (lambda line: line.replace('"verdict"', '"verdickt"'), "['verdickt', 'verdict']"),
        (lambda line: line.replace('"seed": 0, "state"', '"seed": "0", "state"'), "(seed of the wrong type)"),
        (lambda line: line.replace('"alpha75"', '"alpha99"'), "cell 'alpha99': no run of suite 'smoke'"),
        (lambda line: line.replace('"smoke"', '"alpha"'), "suite 'alpha', cell 'alpha75': no run of suite 'smoke'"),
        (lambda line: line.replace('"epochs": 2', '"epochs": 9'), "(epochs 9, now 2)"),
        (lambda line: line.replace('"size": 96', '"size": 64'), "made with other settings than the suite has (phantom"),
    ],
)
def test_a_line_that_is_no_row_of_the_suite_is_named(folder, damage, phrase):
    file = folder / "smoke.jsonl"
    save_results(file, SMOKE, [result_of(run, folder, 0, 1.0) for run in RUNS])
    lines = file.read_text().splitlines()
    assert damage(lines[1]) != lines[1]
    file.write_text("\n".join([lines[0], damage(lines[1]), *lines[2:]]))
    with pytest.raises(UserError) as error:
        load_results(file, SMOKE)
    assert phrase in str(error.value)


def test_a_row_that_is_there_twice_is_named(folder):
    file = folder / "smoke.jsonl"
    file.write_text(2 * (json.dumps(asdict(result_of(RUNS[0], folder, 0, 1.0))) + "\n"))
    with pytest.raises(UserError, match=r"smoke\.jsonl:2: alpha25, seed 0, is there twice"):
        load_results(file, SMOKE)


def test_a_seed_beyond_the_plan_is_a_row_like_any_other(folder):
    row = result_of(RUNS[0], folder, 0, 1.0)
    require_same_settings(SMOKE, replace(row, seed=7, settings={**row.settings, "seed": 7}), "here")
