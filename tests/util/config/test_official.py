"""A config of the official code is recognised without running it, and becomes one of this repository."""

import ast
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.training import ROOT, call
from util.base.errors import UserError
from util.config import KNOBS, ConfigError, differences, flatten, load_config
from util.config.command_line import parse_arguments
from util.config.official import official_values, translate, write_from_official
from util.config.official_keys import OFFICIAL_FLAGS, OFFICIAL_KEYS_WITHOUT_MEANING
from util.config.official_values import ARGUMENTS, DEFAULTS, VARIANTS

IN_BASE = [key for key in DEFAULTS if key.startswith("data_aug_")]


def official(folder, *lines, **changes):
    """A file as the official repository has it, with changes."""
    values = {**DEFAULTS, **changes}
    text = ["_base_ = ['coco_transformer.py']", *(f"{k}={v!r}" for k, v in values.items() if k not in IN_BASE)]
    text += [f"{key} = {changes[key]!r}" for key in IN_BASE if key in changes]
    path = folder / "DINO_4scale.py"
    path.write_text("\n".join([*text, *lines]))
    return path


def converted(path, folder):
    """The recipe here and the knobs in which the new config differs from it."""
    report = write_from_official(path, folder / "new.py")
    config = flatten(load_config(folder / "new.py"))
    recipe = ROOT / "config/DINO" / translate(official_values(path)).recipe
    return recipe.stem, {c.knob: c.after for c in differences(flatten(load_config(recipe)), config)}, report


@pytest.mark.parametrize("recipe", VARIANTS)
def test_an_official_file_as_it_is_changes_nothing(recipe, tmp_path):
    path = official(tmp_path, **VARIANTS[recipe])
    assert converted(path, tmp_path)[:2] == (recipe, {})
    with pytest.raises(ConfigError, match=rf"config/DINO/{recipe}\.py.*it changes nothing of that") as caught:
        load_config(path)
    assert "is an official config" in str(caught.value)
    assert "dn_box_noise_scale 1.0 instead of 0.4" in str(caught.value)
    assert ("batch_size 1 instead of 2" in str(caught.value)) == (
        recipe in ("DINO_4scale_swin", "DINO_4scale_convnext")
    )


def test_the_message_names_changes_alone_in_ten_lines(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(official(tmp_path, num_classes=4, dn_labelbook_size=4, embed_init_tgt=True))
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("your changes:")
    assert [line.strip() for line in lines] == ["num_classes = 4", "dn_labelbook_size = 4"]
    with pytest.raises(ConfigError) as caught:
        load_config(official(tmp_path, **{key: 7 for key in list(DEFAULTS)[20:60]}))
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr": 2e-4, "batch_size": 4}, {"lr": 2e-4, "batch_size": 4}),
        ({"epochs": 24, "lr_drop": 20}, {"epochs": 24, "lr_drop": (20,)}),
        ({"epochs": 36}, {"epochs": 36, "lr_drop": (11, 22, 33)}),  # StepLR drops every 11 epochs
        ({"epochs": 50, "multi_step_lr": True}, {"epochs": 50, "lr_drop": (33, 45)}),
        ({"lr_drop_list": [1, 2]}, {}),  # not read without multi_step_lr
        ({"nms_iou_threshold": 0.8}, {"nms_iou_threshold": 0.8}),
        ({"use_dn": False}, {"dn_number": 0}),
        ({"use_dn": False, "dn_number": 300}, {"dn_number": 0}),
        ({"use_checkpoint": True}, {"activation_checkpointing": True}),
        ({"ddetr_lr_param": True}, {"param_dict_type": "ddetr_in_mmdet"}),
        ({"amp": True}, {"amp": "fp16"}),
        ({"dn_box_noise_scale": 1.0}, {}),  # as the recipe here, and the official launch script
        ({"data_aug_max_size": 1000}, {"data_aug_max_size": 1000}),
        (
            {"data_aug_scale_overlap": 0.5},
            {
                "data_aug_scales": tuple(range(240, 401, 16)),
                "data_aug_max_size": 666,
                "data_aug_scales2_resize": (200, 250, 300),
                "data_aug_scales2_crop": (192, 300),
                "data_eval_scale": 400,
            },
        ),
    ],
)
def test_a_change_becomes_the_knob_that_does_the_same(changes, expected, tmp_path):
    assert converted(official(tmp_path, **changes), tmp_path)[1] == expected


def test_what_has_no_meaning_is_listed_with_its_reason(tmp_path):
    path = official(tmp_path, "xyz = 3", "scales = [int(i * 1.5) for i in (1, 2)]", two_stage_type="no", dilation=True)
    report = converted(path, tmp_path)[2]
    for text in (
        "two_stage_type = 'no': it is always",
        "dilation = True: it has one value",
        "xyz = 3",
        "scales is comp",
    ):
        assert f"not carried over: {text}" in report
        assert f"# {text}" in (tmp_path / "new.py").read_text()
    with pytest.raises(ConfigError, match=r"new\.py: exists"):
        write_from_official(path, tmp_path / "new.py")


def test_nothing_of_a_foreign_file_is_run(tmp_path):
    path = official(tmp_path, f"open({str(tmp_path / 'RAN')!r}, 'w')")
    with pytest.raises(ConfigError, match="is an official config"):
        load_config(path)
    assert not (tmp_path / "RAN").exists()


def test_dumps_of_the_official_code_are_recognised(tmp_path):
    everything = {**DEFAULTS, "config_file": "x", "output_dir": "y", "seed": 42, "amp": False, "batch_size": 3}
    (tmp_path / "config_args_all.json").write_text(json.dumps(everything))
    (tmp_path / "config_cfg.py").write_text("\n".join(f"{k} = {v!r}" for k, v in everything.items()))
    for name in ("config_args_all.json", "config_cfg.py"):
        found = translate(official_values(tmp_path / name))
        assert (found.changes, found.left) == ({"batch_size": 3}, [])


def test_values_of_bases_beside_the_file_count(tmp_path):
    (tmp_path / "coco_transformer.py").write_text("data_aug_scales = [512]\n_base_ = 'DINO_4scale.py'")
    assert translate(official_values(official(tmp_path))).changes == {"data_aug_scales": [512], "data_eval_scale": 512}


def test_recipes_of_this_repository_are_not_taken_for_official():
    recipes = [*(ROOT / "config").rglob("*.py")]
    assert len(recipes) > 10
    assert [path for path in recipes if official_values(path) is not None] == []


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*DEFAULTS, "modelname2"]),
        st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(0, 9), max_size=2),
        max_size=4,
    )
)
def test_any_values_give_a_config_that_can_be_parsed(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("official")
    write_from_official(official(folder, **values), folder / "new.py")
    ast.parse((folder / "new.py").read_text())
    try:
        problem = str(load_config(folder / "new.py"))
    except ConfigError as error:
        problem = str(error)
    assert "unknown key" not in problem


def test_every_official_key_is_a_knob_or_has_a_reason():
    assert DEFAULTS.keys() - KNOBS.keys() <= OFFICIAL_KEYS_WITHOUT_MEANING.keys()
    assert not OFFICIAL_KEYS_WITHOUT_MEANING.keys() & KNOBS.keys()
    flags = {f"--{key}" for key in ARGUMENTS} - OFFICIAL_FLAGS.keys()
    assert flags - {"--distributed", "--gpu", "--dist_backend"} == {
        *("--config_file", "--options", "--coco_path", "--output_dir", "--device", "--resume"),
        *("--pretrain_model_path", "--eval"),
    }


@pytest.mark.parametrize("flag", OFFICIAL_FLAGS)
def test_an_official_flag_is_answered_with_the_knob_or_the_reason(flag):
    with pytest.raises(UserError) as caught:
        parse_arguments(["--config_file", "x", "--coco_path", "y", "--options", "epochs=1", flag, "3"])
    assert str(caught.value) == f"arguments of the official code:\n  {flag} {OFFICIAL_FLAGS[flag]}"


def test_the_knobs_in_the_answers_exist():
    names = {word.split("=")[0] for text in OFFICIAL_FLAGS.values() for word in text.split() if "=" in word}
    assert names - {"--nproc_per_node"} <= KNOBS.keys()


def test_the_command_line_converts(tmp_path):
    path = official(tmp_path, num_queries=300)
    outcome = call("--from_official", path, "--output_config", tmp_path / "mine.py")
    assert outcome.code == 0, outcome.err
    assert "num_queries = 300" in outcome.out
    assert load_config(tmp_path / "mine.py").model.num_queries == 300
    outcome = call("--from_official", official(tmp_path, num_queries="many"), "--output_config", tmp_path / "two.py")
    assert (outcome.code, "num_queries must be int, got 'many'" in outcome.err) == (2, True)
    outcome = call("--from_official", ROOT / "config/DINO/DINO_4scale.py")
    assert (outcome.code, "is not a config of the official code" in outcome.err) == (2, True)
    outcome = call("--from_official", tmp_path / "gone.py")
    assert (outcome.code, "gone.py: no such file" in outcome.err) == (2, True)
