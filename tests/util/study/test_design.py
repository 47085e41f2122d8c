"""The order of a study's runs, and what the suites promise."""

import pytest

from scripts.measure.study_suites import ALPHA, SUITES, find_suite
from util.base.errors import UserError
from util.config import load_config
from util.study.design import Phantom, grid


def test_a_grid_has_every_combination_and_later_factors_win():
    cells = grid({"a": {"1": ("a1", {"x": 1, "y": 1}), "2": ("a2", {"x": 2})}, "b": {"p": ("bp", {"y": 5})}})
    assert [cell.name for cell in cells] == ["a1-bp", "a2-bp"]
    assert [dict(cell.options) for cell in cells] == [{"x": 1, "y": 5}, {"x": 2, "y": 5}]
    assert [dict(cell.levels) for cell in cells] == [{"a": "1", "b": "p"}, {"a": "2", "b": "p"}]


def test_all_cells_of_a_seed_come_before_the_next_seed():
    runs = ALPHA.runs(2)
    assert [run.seed for run in runs] == [0] * 24 + [1] * 24
    assert {run.cell.name for run in runs[:24]} == {cell.name for cell in ALPHA.cells}
    assert [run.cell.levels["focal_alpha"] for run in runs[:8]] == 2 * [".25", ".5", ".75", ".9"]
    assert len({run.cell.name.partition("-")[2] for run in runs[:4]}) == 1, "what differs in alpha alone comes together"
    assert runs == ALPHA.runs(3)[:48], "more seeds only add runs at the end: the index of a task stays"


def test_names_of_runs_are_folders_of_their_own():
    names = [run.name for run in ALPHA.runs(3)]
    assert len(set(names)) == 72
    assert all(name.replace("-", "").isalnum() for name in names)


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_every_run_of_a_suite_is_a_config_that_loads(suite):
    for run in suite.runs(1):
        config = load_config(run.cell.config, run.arguments)
        assert config.runtime.seed == 0
        assert config.eval.eval_every == config.optim.epochs, "evaluated once, at the end"


def test_the_cells_of_alpha_make_the_steps_they_name_and_share_all_but_their_factors():
    made = {run.cell.name: load_config(run.cell.config, run.arguments) for run in ALPHA.runs(1)}
    for cell in ALPHA.cells:
        config = made[cell.name]
        step = config.optim.batch_size * config.optim.gradient_accumulation_steps
        assert step == int(cell.levels["images per step"])
        assert config.loss.focal_alpha == float(cell.levels["focal_alpha"])
        assert config.optim.warmup_steps * step == 400, "the warm-up lasts equally many images"
        assert step / (1 - config.optim.ema_decay) == pytest.approx(400), "so does the average"
    assert len({(config.optim.lr, config.optim.epochs, config.model.num_queries) for config in made.values()}) == 1


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_references_and_contrasts_name_what_is_there(suite):
    for factor, level in suite.references.items():
        assert level in suite.levels(factor)
    assert {name for c in suite.contrasts for name in (c.factor, c.within)} <= suite.references.keys()
    assert all(cell.levels.keys() == suite.references.keys() for cell in suite.cells)


def test_an_unknown_suite_is_one_clear_error():
    with pytest.raises(UserError, match="--suite beta: there is no such suite; those there are: alpha, "):
        find_suite("beta")


def test_a_phantom_is_named_after_all_that_makes_it():
    phantom = Phantom(12, 6, 64, seed=3)
    assert phantom.name == "12_6_64px_seed3"
    assert phantom.arguments == ["--train", "12", "--val", "6", "--size", "64", "--seed", "3"]


def test_what_the_study_calls_strong_has_the_parts_of_the_strong_config():
    parts = load_config("config/DINO/DINO_4scale_tbx11k_strong.py", [])
    (run,) = [run for run in find_suite("recipe").runs(1) if run.cell.name == "strong-alone"]
    tried = load_config(run.cell.config, run.arguments)
    (first,) = [run for run in find_suite("recipe").runs(1) if run.cell.name == "seed-alone"]
    before, tried_before = (
        load_config("config/DINO/DINO_4scale_tbx11k_1gpu.py", []),
        load_config(first.cell.config, first.arguments),
    )
    for section, knobs in {
        "optim": (
            "param_dict_type",
            "lr_linear_proj_mult",
            "decay_norms_and_biases",
            "lr_schedule",
            "lr_flat_share",
            "use_ema",
        ),
        "loss": ("cls_loss", "cls_loss_coef", "focal_alpha", "focal_gamma", "num_boxes_norm"),
        "data": ("positive_fraction",),
    }.items():
        for knob in knobs:
            assert getattr(getattr(tried, section), knob) == getattr(getattr(parts, section), knob), knob
    for made, made_before in ((parts, before), (tried, tried_before)):
        assert made.optim.batch_size * made.optim.gradient_accumulation_steps == 16
        assert made_before.optim.batch_size * made_before.optim.gradient_accumulation_steps == 2
        assert made.optim.lr / made_before.optim.lr == made.optim.lr_backbone / made_before.optim.lr_backbone == 2
