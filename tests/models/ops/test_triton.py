import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import models.ops
from models.ops import triton_attention
from models.ops.backends import choose_attention
from util.base.errors import UserError

CASES = Path(__file__).parents[2] / "helpers" / "attention" / "triton_cases.py"
SHAPES = [(4, 5), (2, 3)]
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a CUDA device")


def inputs(dtype=torch.float32, q=5, shapes=SHAPES, d=8):
    positions, levels = sum(h * w for h, w in shapes), len(shapes)
    value = torch.zeros(2, positions, 2, d, dtype=dtype)
    return value, shapes, torch.zeros(2, q, 2, levels, 3, 2), torch.zeros(2, q, 2, levels, 3, dtype=dtype)


def limit(case, quantity):
    """Of a deviation, as a share of the largest entry; half types round once, where the definition rounds too."""
    if "bfloat16" in case:
        return 2.0**-7
    if "float16" in case:
        return 2.0**-10
    return 1e-5 if quantity == "out" else 1e-4


@with_triton
@pytest.mark.slow
def test_outputs_and_gradients_are_those_of_the_definition():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, CASES], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert len(found) > 20
    wrong = {
        f"{case}: {quantity}": deviation
        for case, quantities in found.items()
        for quantity, deviation in quantities.items()
        if not deviation <= limit(case, quantity)
    }
    assert not wrong


class NoDevice:
    """Stands for a GPU of which nothing but the kind is known; enough to compile for it."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return f"none of {self.capability}"  # the name under which programs are kept: never that of a real device

    def get_current_stream(self, device):  # noqa: ARG002
        return 0


class Compiled:
    """In a kernel's place: compiles what would run, and keeps the programs."""

    def __init__(self, kernel):
        self.kernel, self.programs = kernel, []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.programs.append(self.kernel.warmup(*args, grid=(1,), **kwargs))


@pytest.fixture
def compile_for(monkeypatch, tmp_path):
    from triton.runtime.driver import driver

    from models.ops import triton_kernels

    if triton_kernels.IS_INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def start(capability):
        driver.set_active(NoDevice(capability))
        kernels = [Compiled(kernel) for kernel in (triton_kernels._forward, triton_kernels._backward)]
        for name, kernel in zip(("_forward", "_backward"), kernels, strict=True):
            monkeypatch.setattr(triton_kernels, name, kernel)
        return kernels

    before = dict(vars(driver))
    yield start
    vars(driver).clear()
    vars(driver).update(before)


def launch(value, shapes, locations, weights):
    from models.ops import triton_kernels

    sides = triton_attention._levels(tuple(side for shape in shapes for side in shape), value.device)
    out = triton_kernels.forward(value, sides, locations, weights, tuned=False)
    triton_kernels.backward(out, value, sides, locations, weights, scatter=True, tuned=False)


@with_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_compile_for_gpus_that_are_not_here(compile_for, capability, dtype):
    forward, backward = compile_for(capability)
    launch(*inputs(dtype, d=32))
    [forward], [backward] = forward.programs, backward.programs
    assert forward.asm["cubin"]
    assert backward.asm["cubin"]
    # a cell is read 16 bytes at a time, 8 of a half type, by neighbouring threads
    wide = "v4.b32" if dtype == torch.float32 else "v2.b32"
    assert forward.asm["ptx"].count(f"ld.global.{wide}") == 3 * 4
    assert ("add.v4.f32" in backward.asm["ptx"]) == (capability == 90)  # earlier GPUs add number by number


@with_triton
@pytest.mark.slow
def test_another_picture_size_needs_no_other_program(compile_for):
    kernels = compile_for(90)
    for h, w, q in ((4, 5, 7), (16, 16, 16), (1, 1, 1), (33, 20, 1000), (48, 64, 4096)):
        launch(*inputs(q=q, shapes=[(h, w), (h, 1)]))
    for kernel in kernels:
        assert len(kernel.programs) == 5
        assert len({id(program) for program in kernel.programs}) == 1


@without_gpu
@with_triton
def test_without_a_gpu_the_wish_is_refused():
    for device_type in ("cpu", "cuda"):
        with pytest.raises(UserError, match=r"'triton' cannot be used .* needs a CUDA device"):
            choose_attention.__wrapped__("triton", device_type)


@without_gpu
@with_triton
def test_auto_takes_the_definition_where_triton_cannot_run_and_says_why():
    assert choose_attention.__wrapped__("auto", "cuda") == ("torch", "triton: it needs a CUDA device")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "models.ops.triton_kernels", raising=False)
    monkeypatch.delattr(models.ops, "triton_kernels", raising=False)
    for device_type in ("cpu", "cuda"):
        assert "triton is not installed: pip install triton" in triton_attention.why_not(device_type)


@pytest.fixture
def pretended_gpu(monkeypatch):
    triton_kernels = pytest.importorskip("models.ops.triton_kernels")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(triton_kernels, "IS_INTERPRETED", False)
    monkeypatch.setattr(triton_kernels, "probe", lambda device_type: None)  # noqa: ARG005
    return triton_kernels


def test_a_gpu_that_runs_a_first_kernel_will_do(pretended_gpu):  # noqa: ARG001
    assert triton_attention.why_not("cuda") is None


def test_a_machine_that_cannot_compile_is_told_so(pretended_gpu, monkeypatch):
    def probe(device_type):  # noqa: ARG001
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    monkeypatch.setattr(pretended_gpu, "probe", probe)
    assert triton_attention.why_not("cuda").endswith("Failed to find C compiler. Please specify via CC.")


def test_a_gpu_too_old_for_triton_is_told_so(pretended_gpu, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "8.0" in triton_attention.why_not("cuda")
    assert "7.5" in triton_attention.why_not("cuda")


def test_the_interpreter_is_not_for_gpus(pretended_gpu, monkeypatch):
    monkeypatch.setattr(pretended_gpu, "IS_INTERPRETED", True)
    assert "unset" in triton_attention.why_not("cuda")
    assert triton_attention.why_not("cpu") is None


@pytest.mark.parametrize("which", ["value", "locations", "weights"])
def test_double_precision_is_refused_with_the_backend_that_takes_it(which):
    value, shapes, locations, weights = inputs()
    tensors = {"value": value, "locations": locations, "weights": weights}
    tensors[which] = tensors[which].double()
    with pytest.raises(UserError, match=r"float64.*attn_backend='torch'"):
        triton_attention.ms_deform_attn(tensors["value"], shapes, tensors["locations"], tensors["weights"])


def test_levels_that_the_value_does_not_have_are_refused_before_a_kernel_reads_them():
    value, shapes, locations, weights = inputs()
    for wrong in ([(4, 5), (3, 3)], shapes[:1], [*shapes, (1, 1)]):
        with pytest.raises(ValueError, match="levels"):
            triton_attention.ms_deform_attn(value, wrong, locations, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_and_types_are_known_without_computing(dtype):
    with FakeTensorMode():
        value, shapes, locations, weights = inputs(dtype)
        tensors = [tensor.requires_grad_() for tensor in (value, locations, weights)]
        out = triton_attention.ms_deform_attn(value, shapes, locations, weights)
        assert out.shape == (2, 5, 16)
        assert out.dtype == dtype
        gradients = torch.autograd.grad(out.sum(), tensors)
        assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in tensors]


def test_levels_are_listed_once_for_a_picture_size():
    table = triton_attention._levels((4, 5, 2, 3), torch.device("cpu"))
    assert table.tolist() == [[4, 5, 0], [2, 3, 20]]
    assert triton_attention._levels((4, 5, 2, 3), torch.device("cpu")) is table
