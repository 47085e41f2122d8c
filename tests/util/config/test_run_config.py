"""The config.py of a run folder, which may be a stranger's, is read and not run; it chooses no path."""

import pytest

from tests.helpers.training import CONFIG
from util.config.load import (
    MAX_RUN_CONFIG_BYTES,
    RUN_TITLE,
    ConfigError,
    dump,
    load_config,
    load_run_config,
    read_values,
    resolve,
)
from util.config.schema import KNOBS, PATHS

TITLE = f'"""{RUN_TITLE}, started by\n\n    python main.py\n"""\n\n'
HOSTILE = {
    "code": b"import pathlib\npathlib.Path('CODE_RAN').touch()\n",
    "a call": b"seed = __import__('pathlib').Path('CODE_RAN').touch()\n",
    "a class": b"class A:\n    seed = 1\n",
    "a comparison": b"epochs = 1 < 2 < 3",
    "arithmetic": b"epochs = 2 * 50",
    "two names at once": b"epochs, seed = 1, 2",
    "an item": b"epochs = {}\nepochs['a'] = 1",
    "an f-string": b"train_list = f'{1}'",
    "a base": b"_base_ = 'evil.py'",
    "a list as key": b"epochs = {[1]: 2}",
    "a null byte": b"epochs = 1\0",
    "Latin letters": b"train_list = '\xff'",
    "deep brackets": b"epochs = " + b"(" * 9000 + b"1" + b")" * 9000,
    "deep signs": b"epochs = " + b"-" * 99000 + b"1",
    "deep sums": b"epochs = " + b"1j+" * 60000 + b"1",
    "deep attributes": b"epochs = a" + b".a" * 99000,
    "deep powers": b"epochs = " + b"1**" * 60000 + b"1",
    "deep lambdas": b"epochs = " + b"lambda: " * 9000 + b"1",
    "a number without end": b"epochs = " + b"9" * 200000,
    "a file without end": b"#" * (MAX_RUN_CONFIG_BYTES + 1),
}


def config_of(**changes):
    return resolve({**read_values(CONFIG), **changes}, source="a test")


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder whose config.py may be written; its `evil.py` leaves a trace when it is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_bytes(HOSTILE["code"])
    return tmp_path


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("title", ["", TITLE], ids=["without title", "with title"])
def test_what_is_no_plain_value_in_a_run_folder_is_refused_in_one_message_and_never_run(evil, content, title):
    (evil / "config.py").write_bytes(title.encode() + content)
    with pytest.raises(ConfigError) as caught:
        load_run_config(evil)
    assert str(caught.value).startswith(f"{evil / 'config.py'}")
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 1000
    assert not (evil / "CODE_RAN").exists()


@pytest.mark.parametrize("name", ["code", "a call", "a base"])
def test_a_config_that_a_run_wrote_is_not_executed_as_a_recipe_or_as_its_base_either(evil, name):
    (evil / "config.py").write_bytes(TITLE.encode() + HOSTILE[name])
    (evil / "child.py").write_text("_base_ = 'config.py'")
    for path in ("config.py", "child.py"):
        with pytest.raises(ConfigError, match="to turn it into a recipe with code or bases, copy it to config/"):
            load_config(evil / path)
    assert not (evil / "CODE_RAN").exists()


def test_a_recipe_remains_python(evil):
    (evil / "config.py").write_text(dump(config_of()) + "\nseed = 3 * 4\n")
    assert load_config(evil / "config.py").runtime.seed == 12


def test_the_message_names_the_line(evil):
    (evil / "config.py").write_text("epochs = 1\nseed = 2 * 3\n")
    with pytest.raises(ConfigError, match=r"config\.py, line 2: "):
        load_run_config(evil)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with the mark of Windows editors"])
def test_what_a_run_wrote_reads_back_to_the_same_config(tmp_path, mark):
    config = config_of(train_list='a\\"""\n\u202e', lr_drop=(2, 3), seed=5)
    (tmp_path / "config.py").write_text(mark + dump(config, f"{RUN_TITLE}, started by\n\n    x\n"), encoding="utf-8")
    assert load_run_config(tmp_path) == load_config(tmp_path / "config.py") == config


def test_a_run_folder_chooses_no_path(tmp_path):
    (tmp_path / "config.py").write_text(TITLE + dump(config_of(image_cache="/somewhere")))
    assert load_run_config(tmp_path).data.image_cache == ""
    assert load_config(tmp_path / "config.py").data.image_cache == "/somewhere"  # named as a recipe


def test_every_knob_that_names_a_folder_is_marked_as_a_path():
    folders = {key for key, (_, spec) in KNOBS.items() if "folder" in spec.metadata["doc"] and spec.type is str}
    assert set(PATHS) == folders == {"image_cache"}


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config file not found: .*config\.py"):
        load_run_config(tmp_path)
    (tmp_path / "config.py").mkdir()
    with pytest.raises(ConfigError, match=r"config file not found: .*config\.py"):
        load_run_config(tmp_path)


def test_values_and_keys_without_end_are_told_in_short(tmp_path):
    lines = [f"lr = {16**9999:#x}", f"num_queries = {16**9999:#x}", f"amp = {'x' * 9999!r}", f"{'k' * 9999} = 1"]
    (tmp_path / "config.py").write_text("\n".join([*lines, *(f"unknown{n} = 1" for n in range(999))]))
    with pytest.raises(ConfigError) as caught:
        load_run_config(tmp_path)
    told = str(caught.value)
    assert "lr must be finite, got inf" in told
    assert "num_queries must lie in [1, 20000], got a int that is too long to show" in told
    assert "970 more unknown keys" in told
    assert max(map(len, told.splitlines())) < 500


def test_a_number_that_no_float_holds_is_refused_and_not_a_defect():
    with pytest.raises(ConfigError, match="lr must be finite, got inf"):
        resolve({"lr": 10**400}, source="a test")
