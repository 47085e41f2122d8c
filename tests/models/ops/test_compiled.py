import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from models.ops import compiled
from models.ops.backends import choose
from models.ops.definition import ms_deform_attn
from tests.helpers.attention.cases import SHAPES, assert_like_the_definition, inputs, results
from tests.helpers.device_waits import Waits

ROOT = Path(__file__).parents[3]


def gather(value, shapes, locations, weights):
    """What is compiled, as it stands."""
    return compiled.gather_and_blend(value, torch.tensor(shapes), locations, weights)


@pytest.mark.parametrize("channels", [1, 8, 32])
@pytest.mark.parametrize("shapes", SHAPES, ids=len)
def test_gathering_is_the_definition(shapes, channels):
    assert_like_the_definition(gather, inputs(0, shapes, channels), shapes)
    assert_like_the_definition(gather, inputs(1, shapes, channels, torch.float64), shapes, 1e-12, 1e-11)


def test_a_half_precision_value_is_sampled_in_float32_and_rounded_once():
    value, locations, weights = inputs(2, SHAPES[3], 24)
    tensors = (value.bfloat16(), locations, weights.bfloat16())
    assert_like_the_definition(gather, tensors, SHAPES[3], 2**-7, 2**-7)


def test_the_slopes_are_right():
    tensors = [tensor.requires_grad_() for tensor in inputs(3, SHAPES[1], 2, torch.float64, queries=1, images=1)]
    assert torch.autograd.gradcheck(lambda v, at, w: gather(v, SHAPES[1], at, w), tensors)


@pytest.mark.parametrize("far", [9.0, 1e30, float("inf"), float("nan")])
def test_points_outside_see_nothing_not_even_a_nan_of_the_cell_that_stands_for_them(far):
    value, locations, weights = inputs(4, SHAPES[2], 8)
    value[:, 0] = float("nan")
    locations[:] = far
    out = gather(value, SHAPES[2], locations, weights)
    assert out.isnan().all() if far > 1e38 or far != far else not out.any()


def test_the_sizes_travel_to_a_device_without_waiting(monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda: compiled.gather_and_blend)
    tensors = [tensor.to("meta") for tensor in inputs(6, SHAPES[2], 8)]
    with Waits() as waits:
        assert compiled.ms_deform_attn(tensors[0], SHAPES[2], *tensors[1:]).shape == (2, 7, 24)
    assert waits.number == 0


@pytest.fixture
def quick_compiler(monkeypatch):
    """Leaves functions as they are, and may make two programs of each; nothing is remembered, before and after."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(recompile_limit=2):
        compiled._compiled.cache_clear()
        torch._dynamo.reset()
        yield
        compiled._compiled.cache_clear()
        torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_more_kinds_of_calls_than_torch_allows_by_itself_are_compiled_all_the_same():
    counters.clear()
    for dtype in (torch.float32, torch.bfloat16):
        for images in (1, 2):
            value, *others = inputs(7, SHAPES[0], 8, images=images)
            compiled.ms_deform_attn(value.to(dtype), SHAPES[0], *others)
    assert counters["stats"]["unique_graphs"] == 4


@pytest.mark.slow
def test_a_wish_that_torch_compile_cannot_meet_is_an_error_that_says_why(tmp_path):
    program = """
from models.ops.backends import choose
from util.base.errors import UserError
try:
    choose("compile", "cpu")
except UserError as error:
    print(error)
"""
    environment = {**os.environ, "CXX": "no-such-program", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, cwd=ROOT, text=True)
    assert said.startswith("attn_backend 'compile' cannot be used on cpu: torch.compile fails there")
    assert "no-such-program" in said


@pytest.fixture
def works():
    if reason := compiled.why_not("cpu"):
        if os.environ.get("CI") and shutil.which("g++"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.usefixtures("works")
def test_compiled_it_is_the_definition_and_no_further_image_size_compiles_again():
    assert choose("compile", "cpu") == ("compile", None)
    counters.clear()
    compiles = []
    for n in (3, 4, 5, 6):
        shapes = [(2 * n, 2 * n + 1), (n, n + 1)]
        for queries in (sum(h * w for h, w in shapes), 11):  # encoder, decoder
            assert_like_the_definition(compiled.ms_deform_attn, inputs(n, shapes, 8, queries=queries), shapes)
        compiles.append(counters["stats"]["unique_graphs"])
    assert compiles[0] > 0
    assert compiles[1] == compiles[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("works")
def test_compiled_in_half_precision_it_is_the_definition_up_to_rounding():
    value, locations, weights = inputs(5, SHAPES[2], 32)
    tensors = (value.bfloat16(), locations, weights)
    found, wanted = (results(f, tensors, SHAPES[2]) for f in (compiled.ms_deform_attn, ms_deform_attn))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours.double() - theirs.double()).abs().max() <= 2**-7 * theirs.double().abs().max()
