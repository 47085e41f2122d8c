"""The config files, the knobs, and the command line of main.py."""

import ast
import re

import pytest

from main import parse_arguments
from tests.helpers.source_tree import FILES, ROOT, TREES, name
from util.base.errors import UserError
from util.config import KNOBS, dump, flatten, load_config

CONFIGS = sorted((ROOT / "config" / "DINO").glob("*.py"))
FLAGS = {
    "-h",
    "--help",
    "-c",
    "--config_file",
    "--options",
    "--data_path",
    "--from_official",
    "--output_config",
    "--output_dir",
    "--resume",
    "--pretrain_model_path",
    "--eval",
    "--device",
    "--verbose_losses",
    "--version",
}
RECIPE = {
    "num_classes": 4,
    "dn_labelbook_size": 4,
    "num_queries": 300,
    "focal_alpha": 0.75,
    "focal_gamma": 2.0,
    "cls_loss_coef": 1.0,
    "bbox_loss_coef": 5.0,
    "giou_loss_coef": 2.0,
    "epochs": 50,
    "lr": 1e-4,
    "lr_backbone": 1e-5,
    "lr_drop": (30, 40),
    "use_ema": True,
    "batch_size": 1,
}


def test_the_search_finds_the_recipes():
    assert len(CONFIGS) >= 7


def test_every_knob_is_read():
    read = {n.attr for p in FILES if p.name != "schema.py" for n in ast.walk(TREES[p]) if isinstance(n, ast.Attribute)}
    assert not KNOBS.keys() - read, f"knobs that nothing reads: {sorted(KNOBS.keys() - read)}"


def test_every_knob_has_a_meaning():
    assert all(len(spec.metadata["doc"]) > 5 for _, spec in KNOBS.values())


def test_flags_are_written_out():
    """Job scripts look for the full names."""
    with pytest.raises(UserError, match="--data_path"):
        parse_arguments(["--data", "x"])


def test_the_command_line_is_frozen(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    assert set(re.findall(r"(?<![\w-])--?[a-z]\w*", capsys.readouterr().out)) == FLAGS


def test_an_unknown_flag_is_refused():
    with pytest.raises(UserError, match="unrecognized arguments: --accum_steps 2"):
        parse_arguments(["--data_path", "x", "--accum_steps", "2"])


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_file_loads_and_loads_again_from_its_own_dump(path, tmp_path):
    config = load_config(path)
    (tmp_path / "dumped.py").write_text(dump(config))
    assert load_config(tmp_path / "dumped.py") == config


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_file_says_how_to_run_it(path):
    assert f"--config_file {name(path)}" in ast.get_docstring(TREES[path])


@pytest.mark.parametrize("gpus", ["", "_1gpu"])
def test_the_tbx11k_recipes_hold_what_was_asked_for(gpus):
    values = flatten(load_config(ROOT / "config" / "DINO" / f"DINO_4scale_tbx11k{gpus}.py"))
    assert {key: values[key] for key in RECIPE} == RECIPE
    assert values["warmup_steps"] > 0
    assert values["dataset_file"] == "tbx11k"
    assert values["backbone"] == "resnet50"


def test_the_tbx11k_recipes_differ_in_the_layout_of_a_step_alone():
    two, one = (flatten(load_config(ROOT / f"config/DINO/DINO_4scale_tbx11k{x}.py")) for x in ("", "_1gpu"))
    assert {key: (two[key], one[key]) for key in two if two[key] != one[key]} == {"gradient_accumulation_steps": (1, 2)}
