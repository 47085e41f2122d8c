"""On a GPU the Triton kernels of deformable attention say what the definition says, without making the host wait."""

import pytest
import torch

from models.ops import triton_attention
from models.ops.backends import choose_attention
from models.ops.definition import ms_deform_attn as define
from tests.helpers.attention.triton_cases import QUANTITIES, deviation, deviations, draw, results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPES = [(64, 60), (32, 30), (16, 15), (8, 8)]
SIZES = {"b": 2, "q": 1003, "m": 8, "d": 32, "p": 4}


def drawn(shapes=SHAPES, dtype=torch.float32, **sizes):
    return [tensor.cuda() for tensor in draw(shapes, **{**SIZES, **sizes}, dtype=dtype)]


@pytest.fixture
def waiting_is_an_error():
    """Whatever makes the host wait for the GPU raises, as far as PyTorch notices."""

    def switch(mode):
        torch.cuda.set_sync_debug_mode(mode)

    yield switch
    switch("default")


def test_a_gpu_gets_these_kernels():
    assert choose_attention.__wrapped__("auto", "cuda") == ("triton", None)


# rounding moves a point by 1e-5 cells of a map of 64: by so much of a gradient along a location, where cells differ
LIMITS = {"out": 1e-5, "grad_value": 1e-4, "grad_locations": 1e-3, "grad_weights": 1e-4}


@pytest.mark.parametrize("sizes", [{}, {"d": 24, "m": 3}, {"d": 64, "m": 2}, {"d": 8, "p": 5}, {"q": 0}, {"q": 1}])
def test_outputs_and_gradients_are_those_of_the_definition(sizes):
    """In float64, so that the deviation is that of the kernels alone."""
    tensors = drawn(**sizes)
    found = results(triton_attention.ms_deform_attn, SHAPES, *tensors)
    wanted = results(define, SHAPES, *(tensor.double() for tensor in tensors))
    for name, some, others in zip(QUANTITIES, found, wanted, strict=True):
        if name == "grad_locations" and others.numel():  # steps where a point lies on a line between cells
            near = (some.double() - others).abs() <= LIMITS[name] * others.abs().max()
            assert near.double().mean() > 0.9999
        else:
            assert deviation(some, others) < LIMITS[name], name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_round_the_inputs_and_the_result_alone(dtype):
    found = deviations(SHAPES, *drawn(dtype=dtype))
    steps = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    assert max(found[name] for name in ("out", "grad_value", "grad_weights")) < 2 * steps


def test_in_a_fixed_order_every_run_is_bit_equal():
    tensors = drawn()
    wanted = results(define, SHAPES, *(tensor.double() for tensor in tensors))
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (results(triton_attention.ms_deform_attn, SHAPES, *tensors) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert deviation(first[1], wanted[1]) < LIMITS["grad_value"]


def test_no_call_waits_for_the_gpu_and_neither_does_a_new_picture_size(waiting_is_an_error):
    tensors = drawn()
    results(triton_attention.ms_deform_attn, SHAPES, *tensors)  # compiles and measures
    shapes = [(h + 1, w) for h, w in SHAPES]
    others = drawn(shapes)
    waiting_is_an_error("error")
    results(triton_attention.ms_deform_attn, SHAPES, *tensors)
    results(triton_attention.ms_deform_attn, shapes, *others)
    waiting_is_an_error("default")


def test_another_picture_size_compiles_nothing(monkeypatch):
    from models.ops import triton_kernels

    results(triton_attention.ms_deform_attn, SHAPES, *drawn())

    def refuse(*args, **kwargs):  # noqa: ARG001
        raise AssertionError("compiled again")

    for kernel in (triton_kernels._forward, triton_kernels._backward):
        monkeypatch.setattr(kernel, "compile", refuse)
    for side in range(1, 40):
        shapes = [(side, side + 1), (side // 2 + 1, side), (side, 1), (1, 1)]
        results(triton_attention.ms_deform_attn, shapes, *drawn(shapes, q=37 * side))


def test_it_follows_its_tensors_to_another_stream():
    tensors = drawn()
    wanted = triton_attention.ms_deform_attn(tensors[0], SHAPES, *tensors[1:3])
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = triton_attention.ms_deform_attn(tensors[0], SHAPES, *tensors[1:3])
    torch.cuda.synchronize()
    assert torch.equal(found, wanted)
