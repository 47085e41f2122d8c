"""benchmark.py: its table adds up, a setting is as fast as itself, and what cannot be measured is told."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import pytest
import torch

from scripts.measure.stopwatch import Clock, Spread, Stopwatch, replaced
from scripts.measure.tables import difference
from scripts.measure.workloads import Case, count_operations, level_shapes
from tests.helpers import training as end_to_end
from util.config.load import load_config
from util.distributed.exit_codes import run_to_exit_code

benchmark = end_to_end.load_script("benchmark")
TINY = ["--size", "64", "--device", "cpu", "--warmup", "1", "--no_memory"]
CPU = torch.device("cpu")


def call(*arguments, options=()):
    """Run the script within this process, on one thread."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    chosen = end_to_end.options(num_queries=12, num_select=12, dn_number=5)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            words = ["-c", str(end_to_end.CONFIG), *arguments, "--threads", "1", "--options", *chosen, *options]
            code = run_to_exit_code(partial(benchmark.main, words))
        except SystemExit as end:
            code = end.code
        finally:
            torch.set_num_threads(threads)
    return end_to_end.Outcome(code, out.getvalue(), err.getvalue())


def measured(tmp_path, *arguments):
    outcome = call(*TINY, *arguments, "--output", str(tmp_path / "figures.json"))
    assert outcome.code == 0, outcome.err
    return outcome, json.loads((tmp_path / "figures.json").read_text())


PARTS = {
    "train": {"forward", "criterion", "backward", "clip", "optimizer", "rest"},
    "inference": {"forward", "post-processing", "rest"},
}
FORWARD = {"backbone", "projections", "encoder", "query selection", "decoder", "heads", "rest"}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "inference"])
def test_parts_add_up_to_the_whole(tmp_path, task):
    outcome, content = measured(tmp_path, "--task", task, "--repeats", "3", "--batch_size", "2")
    (row,) = content["rows"]
    outer = [part for part in row["parts"] if len(part["path"]) == 1]
    inner = [part for part in row["parts"] if part["path"][:1] == ["forward"] and len(part["path"]) == 2]
    forward = next(part for part in outer if part["path"] == ["forward"])
    assert {part["path"][0] for part in outer} == PARTS[task]
    assert {part["path"][1] for part in inner} == FORWARD
    assert sum(part["share"] for part in outer) == pytest.approx(100)
    assert sum(part["share"] for part in inner) == pytest.approx(forward["share"])
    assert sum(part["kept_bytes"] for part in inner) == forward["kept_bytes"]
    assert (forward["kept_bytes"] > 0) == (task == "train")
    assert ["forward", "encoder", "deformable attention"] in [part["path"] for part in row["parts"]]
    assert row["cpu_ms"]["repeats"] == 3
    assert row["cpu_ms"]["least"] <= row["cpu_ms"]["low"] <= row["cpu_ms"]["median"] <= row["cpu_ms"]["most"]
    assert (row["operations"]["backward"] > row["operations"]["forward"]) == (task == "train")
    assert content["size"] == [64, 64]
    assert content["config"]["num_queries"] == 12
    assert "deformable attention" in outcome.out
    assert "100.0 %" in outcome.out


@pytest.mark.slow
def test_a_setting_is_as_fast_as_itself_and_gives_the_same_losses(tmp_path):
    _, content = measured(tmp_path, "--repeats", "7", "--compare", "attn_backend=torch", "attn_backend='torch'")
    first, second = content["rows"]
    assert first["times_faster"]["median"] == 1
    assert 0.5 < second["times_faster"]["median"] < 2
    assert second["differs_by"] < 1e-6
    assert len(second["laps"]) == 7


def test_attention_alone_is_measured_at_both_shapes_and_in_both_directions(tmp_path):
    outcome, content = measured(tmp_path, "--task", "attention", "--repeats", "2")
    wanted = {f"{which}, {way}" for which in ("encoder", "decoder") for way in ("forward", "forward + backward")}
    assert {row["work"] for row in content["rows"]} == wanted
    assert "levels 8 x 8, 4 x 4, 2 x 2; 52 decoder queries" in outcome.out  # 12 and 10 groups of 2 x 2


def test_operations_of_deformable_attention_are_those_of_its_definition():
    config = load_config(end_to_end.CONFIG)
    model = config.model
    found = count_operations(config, Case("attention", 3, (64, 96), 2, CPU))["encoder, forward"]
    cells = sum(h * w for h, w in level_shapes(model, (64, 96)))
    assert cells == 8 * 12 + 4 * 6 + 2 * 3
    assert found.forward == 10 * 3 * cells * 3 * model.enc_n_points * model.hidden_dim


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--size", "64", "--options", "num_queries=500"], "num_queries 500 exceeds the 84 cells"),
        (["--size", "16"], "--size 16: expected H or HxW with sides of at least 32"),
        (["--size", "64", "--options", "attn_bakend=torch"], "did you mean 'attn_backend'?"),
        (["--size", "64", "--compare", "amp=off", "amp=half"], "amp must be one of"),
        (["--size", "64", "--compare", "amp=off"], "--compare takes two settings or more"),
        (["--repeats", "0"], "--repeats and --threads must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments, phrase):
    arguments, _, options = " ".join(arguments).partition(" --options ")
    outcome = call(*arguments.split(), "--device", "cpu", options=options.split())
    assert outcome.code == 2
    assert phrase in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_told():
    outcome = call("--size", "64", "--device", "cuda")
    assert (outcome.code, outcome.err.count("sees no CUDA device")) == (2, 1)


@pytest.mark.slow
def test_memory_is_that_of_a_process_per_setting(tmp_path):
    arguments = [str(a) for a in TINY if a != "--no_memory"]
    path = tmp_path / "figures.json"
    outcome = call(*arguments, "--repeats", "1", "--compare", "batch_size=1", "batch_size=2", "--output", str(path))
    assert outcome.code == 0, outcome.err
    peaks = [row["memory"]["peak_mb"] for row in json.loads(path.read_text())["rows"]]
    assert all(1 < peak < 2000 for peak in peaks)


@pytest.mark.slow
def test_the_profile_is_a_trace_and_a_table(tmp_path):
    outcome = call(*TINY, "--repeats", "1", "--profile", str(tmp_path / "trace.json"))
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "Self CPU time total" in outcome.out


def test_parts_nest_and_repeat():
    watch = Stopwatch(Clock("cpu"))
    inner = watch.times("inner", lambda: sum(range(20_000)))
    outer = watch.times("outer", lambda: [inner() for _ in range(3)])
    outer()
    found = watch.milliseconds()
    assert list(found) == [("outer",), ("outer", "inner")]
    assert found["outer",] >= found["outer", "inner"] > 0
    assert watch.milliseconds() == {}


def test_kept_bytes_are_those_autograd_saves_once_per_storage():
    watch, weight = Stopwatch(Clock("cpu")), torch.ones(10, requires_grad=True)

    def square_twice():
        x = weight * 2.0
        return x * x + x.square()

    with watch.counting([weight]):
        watch.times("part", square_twice)().sum().backward()
    assert watch.kept == {(): 40, ("part",): 40}
    assert weight.grad.tolist() == [16.0] * 10


def test_a_replaced_attribute_comes_back():
    class Thing:
        def speak(self):
            return "own"

    thing = Thing()
    with replaced(thing, "speak", lambda: "other"):
        assert thing.speak() == "other"
    assert thing.speak() == "own"
    assert not vars(thing)


def test_the_spread_is_median_and_quartiles():
    spread = Spread.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (spread.median, spread.low, spread.high, spread.least, spread.most, spread.repeats) == (3, 2, 4, 1, 5, 5)
    assert Spread.of([7.0]).high == 7


def test_the_difference_is_relative_to_the_largest_entry():
    assert difference(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 3.0])) == 0.25
    assert difference(torch.tensor([2.0, 4.0]), torch.tensor([2.0])) == 0
