"""The tables and figures of a small made-up study, by hand."""

from dataclasses import replace

import pytest

from util.study.design import Contrast, Phantom, Suite, grid
from util.study.plots import draw_effects, draw_skill, level_label
from util.study.results import RunResult
from util.study.statistics import Estimate
from util.study.tables import cells, contrasts, effects, sections, setup, signed, skill, verdicts

SUITE = Suite(
    name="made",
    title="Made up",
    cells=grid(
        {
            "alpha": {".25": ("low", {"focal_alpha": 0.25}), ".75": ("high", {"focal_alpha": 0.75})},
            "step": {"1": ("one", {}), "8": ("eight", {})},
        }
    ),
    references={"alpha": ".25", "step": "1"},
    options={"epochs": 2},
    phantom=Phantom(12, 6, 64),
    seeds=2,
    document="made.md",
    metrics={},
    contrasts=(Contrast("alpha", within="step"),),
)
AP50 = {"low-one": 0.1, "low-eight": 0.2, "high-one": 0.3, "high-eight": 0.6}


def made(cell, seed, ap50, verdict="healthy", causes=()):
    return RunResult(
        suite="made", cell=cell, seed=seed, state="done", exit_code=0, config="c", settings={}, phantom={},
        metrics={"AP50": ap50, "alarms_healthy": 2.0}, epochs=[{"class_skill": -0.5}, {"class_skill": ap50}],
        verdict=verdict, since=0, causes=list(causes), seconds=60.0,
    )  # fmt: skip


ROWS = [made(cell, seed, value + 0.1 * seed) for seed in (0, 1) for cell, value in AP50.items()]


def lines(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_every_cell_has_its_mean_and_its_range():
    head, _, *rows = lines(cells(SUITE, ROWS))
    assert head[:4] == ["alpha", "step", "runs", "AP50"]
    assert rows[0][:4] == [".25", "1", "2", ".150 (.100 to .200)"]
    assert rows[1][:4] == [".25", "8", "2", ".250 (.200 to .300)"]
    assert rows[0][-1] == "0 of 2"
    assert rows[0][4] == "-", "a figure that no run has"


def test_effects_are_differences_over_matched_runs():
    rows = {tuple(row[:2]): row for row in lines(effects(SUITE, ROWS))[2:]}
    assert rows["alpha", ".25"][2:4] == ["4", ".200 (mean)"]
    assert rows["alpha", ".75"][3].startswith("**+.300 [")  # .2, .4, .2, .4: deviation .1155, half a width .1837
    assert rows["alpha", ".75"][3] == "**+.300 [+.116, +.484]**"
    assert rows["step", "8"][3] == "**+.200 [+.016, +.384]**"


def test_a_difference_without_its_partner_is_left_out():
    without = [row for row in ROWS if (row.cell, row.seed) != ("low-one", 0)]
    found = {tuple(row[:2]): row for row in lines(effects(SUITE, without))[2:]}
    assert found["alpha", ".75"][3].startswith("**+.333")  # of .4, .2, .4


def test_contrasts_are_the_same_within_the_levels_of_another_factor():
    rows = [row[:4] for row in lines(contrasts(SUITE, ROWS, SUITE.contrasts[0]))[2:]]
    assert rows[0] == ["1", ".25", "2", ".150 (mean)"]
    assert rows[1][:3] == ["1", ".75", "2"]
    assert "+.200 [" in rows[1][3]
    assert "+.400 [" in rows[3][3]


def test_verdicts_count_runs_and_name_causes():
    failing = replace(ROWS[0], verdict="failing", causes=["predicts_nothing", "hardly_learns"])
    rows = {tuple(row[:2]): row for row in lines(verdicts(SUITE, [failing, *ROWS[1:]]))[2:]}
    assert rows["alpha", ".25"][2:8] == ["4", "1", "5 to 70 %", "0", "3", "0"]
    assert rows["alpha", ".25"][8] == "`predicts_nothing` (1), `hardly_learns` (1)"
    assert rows["alpha", ".75"][8] == "none"


def test_skill_is_a_mean_over_seeds_after_each_epoch():
    rows = lines(skill(SUITE, ROWS))
    assert rows[0] == ["alpha", "step", "epoch 1", "epoch 2"]
    assert rows[2] == [".25", "1", "-.50", "+.15"]


def test_the_set_up_counts_whole_seeds():
    said = setup(SUITE, ROWS[:-1])
    assert said.startswith("7 runs: 4 cells, 1 whole seeds of 2 planned; 1.0 minutes each (median)")
    assert "`make_phantom.py --train 12 --val 6 --size 64 --seed 0`" in said


def test_a_run_that_failed_is_in_no_table():
    failed = replace(made("low-one", 0, 9.0), state="failed")
    assert sections(SUITE, [failed, *ROWS[1:]]) == sections(SUITE, ROWS[1:])


@pytest.mark.parametrize("count", [0, 1, 8])
def test_sections_and_figures_can_be_made_of_any_number_of_runs(count):
    rows = ROWS[:count]
    assert list(sections(SUITE, rows)) == [
        f"made {name}" for name in ("setup", "effects", "cells", "verdicts", "skill", "alpha within step")
    ]
    assert draw_skill(SUITE, rows).axes
    assert draw_effects(SUITE, rows).axes


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "-"),
        (Estimate(0.12345, None, None, 1), "+.123"),
        (Estimate(-0.5, -0.7, -0.3, 4), "**-.500 [-.700, -.300]**"),
        (Estimate(1.5, -0.25, 3.25, 4), "+1.500 [-.250, +3.250]"),
    ],
)
def test_a_difference_is_bold_where_its_interval_excludes_zero(found, text):
    assert signed(found) == text


def test_a_contrast_names_only_levels_that_have_a_cell_there():
    some = [cell for cell in SUITE.cells if cell.name != "high-eight"]
    rows = lines(contrasts(replace(SUITE, cells=some), ROWS[:3], Contrast("alpha", within="step")))[2:]
    assert [row[:3] for row in rows] == [["1", ".25", "1"], ["1", ".75", "1"], ["8", ".25", "1"]]


def test_a_level_that_is_a_bare_number_is_shown_with_its_factor():
    assert level_label("focal_alpha", ".25") == "focal_alpha .25"
    assert level_label("switch", "none") == "switch none"
    assert level_label("sampling", "positive_fraction .25") == "positive_fraction .25"
