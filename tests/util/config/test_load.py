import ast
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from util.config import KNOBS, ConfigError, as_options, dump, flatten, load_config
from util.config.load import RUN_TITLE, add_later_knobs, read_values, resolve
from util.config.official_keys import OFFICIAL_KEYS_WITHOUT_MEANING
from util.config.options import parse_option
from util.config.schema import BEFORE, INFERENCE, PLAIN, SECTIONS

TINY = Path(__file__).parents[3] / "config" / "DINO" / "DINO_tiny_phantom.py"
VALUES = dict(read_values(TINY))
BASES = TINY.parents[1] / "_base_"
FIRST_KNOBS = """
    backbone backbone_norm backbone_freeze_at backbone_weights return_interm_indices num_feature_levels
    pe_temperatureH pe_temperatureW hidden_dim nheads enc_layers dec_layers dim_feedforward dropout enc_n_points
    dec_n_points num_classes num_queries dn_number dn_label_noise_ratio dn_box_noise_scale dn_labelbook_size
    restrict_to_categories focal_alpha focal_gamma matcher_focal_alpha matcher_focal_gamma set_cost_class
    set_cost_bbox set_cost_giou cls_loss_coef bbox_loss_coef giou_loss_coef interm_loss_coef no_interm_box_loss
    aux_loss dn_padding_loss lr lr_backbone lr_linear_proj_mult param_dict_type weight_decay clip_max_norm epochs
    lr_drop lr_drop_factor warmup_steps batch_size gradient_accumulation_steps use_ema ema_decay ema_warmup_steps
    amp dataset_file train_list val_list data_aug_flip data_aug_crop data_aug_scales data_aug_max_size
    data_aug_square data_aug_scales2_resize data_aug_scales2_crop data_eval_scale num_workers num_select
    nms_iou_threshold eval_batch_size eval_every operating_rule operating_target bootstrap_draws seed log_every
    checkpoint_every_minutes keep_last_checkpoints skip_nonfinite_steps save_checkpoint_interval
"""


def config_of(**changes):
    return resolve({**VALUES, **changes}, source="a test")


def files(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "child.py"


def problems(**changes):
    with pytest.raises(ConfigError) as caught:
        config_of(**changes)
    return str(caught.value).splitlines()[1:]


def test_a_child_overrides_its_base_and_the_base_of_the_base(tmp_path):
    path = files(
        tmp_path,
        grandparent="a = 1\nb = 1\nc = 1",
        parent="_base_ = 'grandparent.py'\nb = 2\nc = 2",
        child="_base_ = ['parent.py']\nc = 3",
    )
    assert read_values(path) == {"a": 1, "b": 2, "c": 3}


def test_bases_are_found_beside_the_file_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    files(tmp_path / "deep", base="a = 1")
    path = files(tmp_path, child="_base_ = 'deep/base.py'")
    monkeypatch.chdir("/")
    assert read_values(path) == {"a": 1}


def test_two_bases_that_set_the_same_key_clash(tmp_path):
    path = files(tmp_path, one="lr = 1", two="lr = 1", child="_base_ = ['one.py', 'two.py']")
    with pytest.raises(ConfigError, match=r"child\.py: two bases set lr; set it in this file"):
        read_values(path)


def test_the_child_resolves_a_clash_of_its_bases(tmp_path):
    path = files(tmp_path, one="lr = 1", two="lr = 2", child="_base_ = ['one.py', 'two.py']\nlr = 3")
    assert read_values(path) == {"lr": 3}


@pytest.mark.parametrize("base", ["child.py", "other.py"])
def test_a_file_that_is_its_own_base_is_refused(tmp_path, base):
    path = files(tmp_path, other="_base_ = 'child.py'", child=f"_base_ = '{base}'")
    with pytest.raises(ConfigError, match=r"child\.py: is its own _base_"):
        read_values(path)


def test_a_file_may_be_the_base_of_two_branches_only_if_the_keys_are_set(tmp_path):
    path = files(tmp_path, root="a = 1", x="_base_ = 'root.py'", y="_base_ = 'root.py'", child="_base_=['x.py','y.py']")
    with pytest.raises(ConfigError, match="two bases set a"):
        read_values(path)


@pytest.mark.parametrize("missing", ["child.py", "gone.py"])
def test_a_missing_file_is_named(tmp_path, missing):
    path = files(tmp_path, other="a = 1") if missing == "child.py" else files(tmp_path, child="_base_ = 'gone.py'")
    with pytest.raises(ConfigError, match=rf"config file not found: .*{missing}"):
        load_config(path)


def test_a_syntax_error_names_file_and_line(tmp_path):
    with pytest.raises(ConfigError, match=r"child\.py, line 3: cannot be executed as Python: SyntaxError"):
        load_config(files(tmp_path, child="a = 1\n\nb = = 2\n"))


@pytest.mark.parametrize("text", ["a = 1 / 0", "import nowhere_to_be_found", "raise RuntimeError('x')"])
def test_a_file_that_fails_is_the_users_error(tmp_path, text):
    with pytest.raises(ConfigError, match=r"child\.py: cannot be executed as Python"):
        load_config(files(tmp_path, child=text))


def test_a_file_may_compute_its_values(tmp_path):
    path = files(tmp_path, child="import math\nfrom pathlib import Path\ndef f(): return 2\na = f() * 3\n")
    assert read_values(path) == {"a": 6}


def test_all_problems_are_reported_at_once_and_the_file_is_named(tmp_path):
    path = files(
        tmp_path, child=f"_base_ = {str(TINY)!r}\nlr_drops = 3\nfocal_alpha = 75\nepochs = 'x'\nhidden_dim = 33\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["num_queries=0"])
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}:"
    assert sorted(lines) == [
        "  epochs must be int, got 'x'",
        "  focal_alpha must lie in [0, 1], got 75.0",
        "  hidden_dim 33 must be a multiple of 32 and of nheads = 4",
        "  num_queries must lie in [1, 20000], got 0",
        "  unknown key 'lr_drops'; did you mean 'lr_drop'?",
    ]


def test_a_missing_knob_is_named_with_its_meaning():
    with pytest.raises(ConfigError, match=r"missing key 'focal_alpha' \(weight of positives"):
        resolve({k: v for k, v in VALUES.items() if k != "focal_alpha"}, source="a test")


def test_an_unknown_key_without_a_neighbour_points_to_the_schema():
    assert problems(zzzzzz=1) == ["  unknown key 'zzzzzz'; see util/config/schema.py for all knobs"]


@pytest.mark.parametrize("key", OFFICIAL_KEYS_WITHOUT_MEANING)
def test_an_official_key_without_meaning_has_a_line_of_its_own(key):
    assert key not in KNOBS
    assert problems(**{key: 1}) == [f"  unknown key {key!r}: it {OFFICIAL_KEYS_WITHOUT_MEANING[key]}"]


def test_values_are_converted_to_the_type_of_the_knob():
    config = config_of(lr=1, lr_drop=[3, 5], data_aug_scales=200, matcher_focal_alpha=1)
    assert config.optim.lr == 1.0
    assert type(config.optim.lr) is float
    assert config.optim.lr_drop == (3, 5)
    assert config.data.data_aug_scales == (200,)
    assert type(config.loss.matcher_focal_alpha) is float


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_queries", True, "int"),
        ("num_queries", 5.0, "int"),
        ("num_queries", None, "int"),
        ("use_ema", 1, "bool"),
        ("use_ema", "True", "bool"),
        ("lr", True, "float"),
        ("lr", "1e-4", "float"),
        ("lr_drop", [3, True], "a tuple of int"),
        ("lr_drop", [3, 4.0], "a tuple of int"),
        ("lr_drop", {3: 4}, "a tuple of int"),
        ("train_list", 2017, "str"),
        ("matcher_focal_alpha", "no", "float or None"),
        ("amp", "fp8", "one of 'off', 'bf16', 'fp16'"),
        ("amp", True, "one of 'off', 'bf16', 'fp16'"),
        ("amp", ["off"], "one of 'off', 'bf16', 'fp16'"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, expected):
    [problem] = problems(**{key: value})
    assert problem.startswith(f"  {key} must be {expected}, got ")


FLOATS = sorted(k for k, (_, spec) in KNOBS.items() if spec.type in (float, float | None))


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(key, value):
    assert problems(**{key: value}) == [f"  {key} must be finite, got {value!r}"]


@pytest.mark.parametrize("key", KNOBS)
def test_the_bounds_of_a_knob_are_legal_and_beyond_them_is_not(key):
    spec = KNOBS[key][1]
    for bound, beyond in ((spec.metadata["low"], -1), (spec.metadata["high"], 1)):
        if bound is not None:
            assert f"{key} must" not in "\n".join(problems(**{key: bound}, nonsense=1))
            assert any(line.startswith(f"  {key} must") for line in problems(**{key: bound + beyond}))


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("num_queries=300", "num_queries", 300),
        ("lr=1e-4", "lr", 1e-4),
        ("lr_drop=30,40", "lr_drop", (30, 40)),
        ("lr_drop=[30,40]", "lr_drop", [30, 40]),
        ("lr_drop=(30, 40)", "lr_drop", (30, 40)),
        ("lr_drop=11", "lr_drop", 11),
        ("backbone=resnet18", "backbone", "resnet18"),
        ("backbone='resnet18'", "backbone", "resnet18"),
        ("backbone_weights=a=b.pth", "backbone_weights", "a=b.pth"),
        ("backbone_weights=x-y", "backbone_weights", "x-y"),
        ("matcher_focal_alpha=None", "matcher_focal_alpha", None),
        ("use_ema=True", "use_ema", True),
        (" lr = 1 ", "lr", 1),
        ("train_list=", "train_list", ""),
        ("train_list={[1]: 2}", "train_list", "{[1]: 2}"),
    ],
)
def test_an_option_is_a_python_literal_or_else_a_string(text, key, value):
    assert parse_option(text) == (key, value)
    assert type(parse_option(text)[1]) is type(value)


@pytest.mark.parametrize("text", ["lr", "", "=3", " =3"])
def test_an_option_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="is not KEY=VALUE"):
        load_config(TINY, [text])


def test_options_win_over_the_file_and_the_last_one_wins():
    assert load_config(TINY, ["epochs=20", "epochs=30"]).optim.epochs == 30


def test_a_misspelt_option_is_refused():
    with pytest.raises(ConfigError, match="unknown key 'num_query'; did you mean 'num_queries'"):
        load_config(TINY, ["num_query=3"])


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        config_of().optim.lr = 3.0


def test_flat_values_resolve_to_the_same_config():
    config = config_of()
    assert list(flatten(config)) == list(KNOBS)
    assert resolve(flatten(config), source="a test") == config


def values_of(expected, low, high):
    if get_origin(expected) is Literal:
        return st.sampled_from(get_args(expected))
    if get_origin(expected) in (Union, UnionType):
        return st.one_of(*(values_of(a, low, high) for a in get_args(expected)))
    if get_origin(expected) is tuple:
        return st.lists(values_of(get_args(expected)[0], low, high), max_size=4).map(tuple)
    low = -(2**40) if low is None else low
    return {
        int: lambda: st.integers(int(low), 2**40 if high is None else int(high)),
        float: lambda: st.floats(low, 1e300 if high is None else high, allow_nan=False),
        bool: st.booleans,
        str: lambda: st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
        type(None): st.none,
    }[expected]()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_dump_reads_back_to_the_same_config(data, tmp_path_factory):
    changes = {}
    for key in data.draw(st.lists(st.sampled_from(sorted(KNOBS)), max_size=8, unique=True)):
        spec = KNOBS[key][1]
        changes[key] = data.draw(values_of(spec.type, spec.metadata["low"], spec.metadata["high"]), label=key)
    try:
        config = config_of(**changes)
    except ConfigError:  # two legal values that contradict each other
        assume(False)
    path = tmp_path_factory.mktemp("dump") / "config.py"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("text", ["plain", r"a\Nb \u12 C:\new", 'x"""y', 'ends with "', "back\\", "it's", "\n  a\n\n"])
def test_a_dump_carries_any_docstring(text, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(dump(config_of(), text))
    assert load_config(path) == config_of()
    assert ast.get_docstring(ast.parse(path.read_text()), clean=False) == text


def test_a_config_is_written_while_another_process_makes_the_grammar_that_wraps_its_lines(tmp_path):
    """yapf's files are there, newer than the package, and cut off: as another process sees them."""
    run = partial(
        subprocess.run, cwd=TINY.parents[2], env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, text=True, check=True
    )
    run([sys.executable, "-c", "import yapf"])
    cut = list(tmp_path.rglob("*.pickle"))
    assert cut
    for path in cut:
        path.write_bytes(path.read_bytes()[:100])
    program = f"from util.config import dump, load_config; print(dump(load_config({str(TINY)!r})))"
    done = run([sys.executable, "-c", program], capture_output=True)
    (tmp_path / "config.py").write_text(done.stdout)
    assert load_config(tmp_path / "config.py") == load_config(TINY)


def older(config):
    """The config as written by a version with fewer knobs."""
    return {key: value for key, value in flatten(config).items() if key not in BEFORE}


def test_the_config_of_an_older_run_is_completed_with_what_the_run_did_and_a_note(tmp_path, capsys):
    lines = "".join(f"{key} = {value!r}\n" for key, value in older(config_of()).items())
    (tmp_path / "config.py").write_text(f'"""{RUN_TITLE}, started by\n\n    python main.py\n"""\n\n{lines}')
    (tmp_path / "child.py").write_text("_base_ = 'config.py'\nseed = 5")
    for name in ("config.py", "child.py"):
        config = load_config(tmp_path / name, ["positive_fraction=0.5"])
        assert flatten(config) == {**flatten(config), **BEFORE, "positive_fraction": 0.5}
        note = capsys.readouterr().err
        assert note.count("knobs added since get the values of its behaviour: ") == 1
        assert "positive_fraction=0.0, " in note
    assert load_config(tmp_path / "child.py").runtime.seed == 5


def test_a_value_of_an_older_run_that_no_longer_exists_is_replaced_and_that_is_logged(tmp_path, capsys):
    text = dump(config_of(), f"{RUN_TITLE}, started by x")
    assert "attn_backend = 'auto'" in text
    (tmp_path / "config.py").write_text(text.replace("attn_backend = 'auto'", "attn_backend = 'compile'"))
    assert load_config(tmp_path / "config.py") == config_of()
    assert "config.py: attn_backend='compile' no longer exists; replaced by 'auto'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="attn_backend"):
        config_of(attn_backend="compile")


def test_a_complete_config_is_not_completed(tmp_path, capsys):
    (tmp_path / "config.py").write_text(dump(config_of(positive_fraction=0.25), f"{RUN_TITLE}, started by x"))
    assert load_config(tmp_path / "config.py") == config_of(positive_fraction=0.25)
    assert add_later_knobs(flatten(config_of()), "a checkpoint") == flatten(config_of())
    assert capsys.readouterr().err == ""


def test_a_recipe_must_still_set_every_knob(tmp_path):
    (tmp_path / "mine.py").write_text("".join(f"{k} = {v!r}\n" for k, v in older(config_of()).items()))
    with pytest.raises(ConfigError, match="missing key 'positive_fraction'"):
        load_config(tmp_path / "mine.py")


def test_a_knob_that_runs_of_the_first_version_lack_states_what_they_did():
    """A knob is never added to FIRST_KNOBS: it gets `before=` in the schema."""
    assert set(FIRST_KNOBS.split()) == KNOBS.keys() - BEFORE.keys()


def test_every_value_that_the_schema_states_is_legal():
    for values in (BEFORE, PLAIN, INFERENCE):
        stated = flatten(load_config(TINY, as_options(values)))
        assert {key: stated[key] for key in values} == values


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_of_the_schema_has_a_base_file_with_its_knobs_alone(section):
    assert {KNOBS[key][0] for key in read_values(BASES / f"{section}.py")} == {section}


@pytest.mark.parametrize("data_set", ["coco", "tbx11k"])
def test_the_base_files_and_a_data_set_set_every_knob_once(data_set):
    keys = [key for name in (*SECTIONS, data_set) for key in read_values(BASES / f"{name}.py")]
    assert sorted(keys) == sorted(KNOBS)
    assert {path.stem for path in BASES.glob("*.py")} == {*SECTIONS, "coco", "tbx11k"}


def test_a_whole_number_without_bounds_is_refused_like_any_other_value():
    with pytest.raises(ConfigError, match=r"lr must be finite, got inf"):
        config_of(lr=10**400)
