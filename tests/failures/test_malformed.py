"""Damaged downloads: clear messages; no traceback, no hang, nothing half written under a final name."""

import io
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import pytest

from datasets.phantom.write import make_phantom
from tests.helpers.files.malformed import spoil
from tests.helpers.training import ONE_EPOCH, call, load_script, snapshot, training
from util.distributed.exit_codes import run_to_exit_code

LONGEST = 20.0  # seconds, where a sound folder takes a tenth of one
SEEDS = range(100)
IN_EVERY_RUN = 6
prepare = load_script("prepare_tbx11k")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound") / "TBX11K"
    make_phantom(root, train=10, val=4, seed=1, positive_fraction=0.5, size=128)
    (root / "phantom.json").unlink()
    return root


def run_script(*arguments):
    """(code, standard output, standard error, seconds), with a terminal that shows UTF-8 alone."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace"))
    began = time.monotonic()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_to_exit_code(partial(prepare.main, [str(argument) for argument in arguments]))
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, *texts, time.monotonic() - began


def assert_well_ended(code, out, err, seconds):
    assert code in (0, 2)
    assert "Traceback" not in out + err
    assert seconds < LONGEST
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    assert (code == 2) == bool(lines or err)


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < IN_EVERY_RUN else [pytest.mark.slow]) for s in SEEDS])
def test_a_damaged_folder_ends_with_a_message_and_nothing_half_written(sound, tmp_path, seed):
    data, out = shutil.copytree(sound, tmp_path / "data"), tmp_path / "out"
    what = spoil(data, seed)
    before = snapshot(data)
    assert_well_ended(*run_script(data, "--check"))
    code, _, err, _ = ended = run_script(data, "--output_dir", out)
    assert_well_ended(*ended)
    assert snapshot(data) == before, what
    if code == 2:
        assert not out.exists(), (what, err)
    else:
        assert sorted(path.name for path in out.iterdir()) == ["annotations", "imgs", "lists"]
        assert snapshot(out / "imgs") == snapshot(data / "imgs")
        assert not list(out.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 240))
def test_a_training_on_a_damaged_folder_trains_or_is_refused_before_anything_is_written(sound, tmp_path, seed):
    data = shutil.copytree(sound, tmp_path / "data")
    what = spoil(data, seed)
    outcome = call(*training(data, tmp_path / "run", **ONE_EPOCH))
    assert outcome.code in (0, 2), (what, outcome.err)
    assert "Traceback" not in outcome.out + outcome.err, what
    assert (tmp_path / "run").exists() == (outcome.code == 0), what
    for path in tmp_path.rglob("*.pth"):
        path.unlink()
