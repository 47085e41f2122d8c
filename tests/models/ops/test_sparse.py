import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops import definition, native, sparse
from models.ops.backends import backend_for, choose_attention

maps = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


def inputs(shapes, *, b=2, q=5, m=2, d=8, p=3, seed=0, dtype=torch.float64, spread=0.6):
    """Value, locations from well inside to far outside, weights."""
    generator = torch.Generator().manual_seed(seed)
    size = (b, q, m, len(shapes), p)
    value = torch.randn(b, sum(h * w for h, w in shapes), m, d, generator=generator, dtype=dtype)
    locations = 0.5 + spread * torch.randn(
        *size, 2, generator=generator, dtype=torch.promote_types(dtype, torch.float32)
    )
    weights = torch.rand(size, generator=generator, dtype=dtype)
    return value, shapes, locations, weights / weights.sum((-2, -1), keepdim=True)


def answers(function, value, shapes, locations, weights):
    """Output, and what a fixed gradient of it gives to each input."""
    leaves = [x.detach().clone().requires_grad_() for x in (value, locations, weights)]
    out = function(leaves[0], shapes, *leaves[1:])
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    out.backward(seed)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def check_equal(found, wanted, *bounds):
    """`bounds` for the output and for the gradients, relative to the largest entry."""
    for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        largest = theirs.abs().max().item() if theirs.numel() else 0.0
        np.testing.assert_allclose(mine.float(), theirs.float(), rtol=0, atol=bounds[min(i, 1)] * max(largest, 1e-12))


@settings(max_examples=25, deadline=None)
@given(shapes=maps, seed=st.integers(0, 10**6), b=st.integers(1, 3), q=st.integers(0, 7), d=st.sampled_from([1, 8, 24]))
def test_it_is_the_definition(shapes, seed, b, q, d):
    case = inputs(shapes, b=b, q=q, d=d, seed=seed)
    check_equal(answers(sparse.ms_deform_attn, *case), answers(definition.ms_deform_attn, *case), 1e-12, 1e-11)


def test_in_float32_it_is_the_definition_up_to_rounding():
    case = inputs([(40, 56), (20, 28), (10, 14), (5, 7)], q=400, m=8, d=32, p=4, dtype=torch.float32)
    check_equal(answers(sparse.ms_deform_attn, *case), answers(definition.ms_deform_attn, *case), 1e-5, 1e-4)


def test_half_precision_is_raised_and_rounded_once():
    case = inputs([(6, 5), (3, 3)], dtype=torch.bfloat16)
    check_equal(answers(sparse.ms_deform_attn, *case), answers(definition.ms_deform_attn, *case), 0.01, 0.01)


@pytest.mark.parametrize("edge", [0.0, 1.0, -0.1, 1.1, 0.05, 0.95])
def test_on_and_behind_the_border(edge):
    value, shapes, locations, weights = inputs([(5, 10)], q=3)
    case = (value, shapes, torch.full_like(locations, edge), weights)
    out, grad_value, grad_locations, grad_weights = answers(sparse.ms_deform_attn, *case)
    wanted = answers(definition.ms_deform_attn, *case)
    check_equal([out, grad_value, grad_weights], [wanted[0], wanted[1], wanted[3]], 1e-12, 1e-12)
    if edge not in (0.05, 0.95):  # in the middle of a cell of ten there is a kink: any slope between is one
        check_equal([grad_locations], [wanted[2]], 1e-12, 1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_location_that_is_nowhere_reads_nothing_outside(bad):
    value, shapes, locations, weights = inputs([(5, 4), (2, 3)])
    locations[0, 0, 0, 0, 0, 0] = bad
    out, grad_value, *_ = answers(sparse.ms_deform_attn, value, shapes, locations, weights)
    assert torch.isfinite(out[1]).all()  # the other image
    assert torch.isfinite(out[0, 0, :8]).all() == (bad == bad)
    assert grad_value.shape == value.shape


def test_nan_in_a_map_comes_out():
    value, shapes, locations, weights = inputs([(3, 3)], spread=0.01)
    value[0, 4] = float("nan")
    out = sparse.ms_deform_attn(value, shapes, locations, weights)
    assert out[0].isnan().all()
    assert not out[1].isnan().any()


def test_its_gradients_are_its_slopes():
    value, shapes, locations, weights = inputs([(4, 3), (2, 2)], b=1, q=2, d=2, p=2, spread=0.3)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: sparse.ms_deform_attn(v, shapes, x, w), leaves, eps=1e-7)


def test_the_same_input_gives_the_same_bits_on_any_number_of_threads():
    case = inputs([(20, 20), (10, 10)], q=300, m=8, d=32, dtype=torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            runs.append(answers(sparse.ms_deform_attn, *case))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_it_takes_inputs_that_are_not_contiguous():
    value, shapes, locations, weights = inputs([(5, 4), (2, 3)])
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (value, locations, weights)]
    found = answers(sparse.ms_deform_attn, strided[0], shapes, *strided[1:])
    check_equal(found, answers(definition.ms_deform_attn, value, shapes, locations, weights), 1e-12, 1e-12)


@pytest.fixture
def without_compiler(monkeypatch):
    """Nothing is remembered of the choice, before and after."""
    monkeypatch.setattr(native, "why_not", lambda _: "no C++ compiler")
    for chooser in (choose_attention, backend_for):
        chooser.cache_clear()
    yield
    for chooser in (choose_attention, backend_for):
        chooser.cache_clear()


@pytest.mark.usefixtures("without_compiler")
def test_it_is_what_auto_takes_on_a_cpu_without_a_compiler():
    assert choose_attention("auto", "cpu") == ("sparse", "cpp: no C++ compiler")
    assert backend_for("auto", "cpu") is sparse.ms_deform_attn


@pytest.mark.usefixtures("without_compiler")
def test_without_mkl_auto_goes_without_it_and_says_so(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    name, reason = choose_attention("auto", "cpu")
    assert name == "torch"
    assert "without MKL" in reason


def test_inference_needs_no_graph():
    case = inputs([(5, 4)])
    with torch.inference_mode():
        out = sparse.ms_deform_attn(*case)
    check_equal([out], [definition.ms_deform_attn(*case)], 1e-12, 1e-12)
