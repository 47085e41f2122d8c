import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import speed_up
from models.ops import native
from models.ops.backends import choose
from models.ops.ms_deform_attn import MSDeformAttn
from tests.helpers.attention.cases import SHAPES, assert_like_the_definition, inputs, results
from util.base.errors import UserError
from util.config.load import load_config

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config" / "DINO" / "DINO_tiny_phantom.py"
PYRAMID = [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.fixture(autouse=True)
def compiler():
    if reason := native.why_not("cpu"):
        if os.environ.get("CI") and shutil.which("g++"):
            pytest.fail(reason)
        pytest.skip(reason)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.sampled_from(SHAPES),
    channels=st.sampled_from([1, 8, 16, 24, 32, 64]),
    points=st.integers(1, 4),
)
def test_in_float32_it_is_the_definition_up_to_rounding(seed, shapes, channels, points):
    assert_like_the_definition(native.ms_deform_attn, inputs(seed, shapes, channels, points=points), shapes)


@pytest.mark.parametrize("channels", [1, 32, 33])
@pytest.mark.parametrize("shapes", SHAPES, ids=len)
def test_in_float64_it_is_the_definition_to_twelve_digits(shapes, channels):
    tensors = inputs(1, shapes, channels, torch.float64)
    assert_like_the_definition(native.ms_deform_attn, tensors, shapes, 1e-12, 1e-11)


def test_its_gradients_are_the_slopes():
    tensors = [tensor.requires_grad_() for tensor in inputs(2, SHAPES[2], 3, torch.float64, queries=2, images=1)]
    assert torch.autograd.gradcheck(lambda v, at, w: native.ms_deform_attn(v, SHAPES[2], at, w), tensors)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [24, 32])
def test_a_half_precision_value_is_sampled_in_float32_and_rounded_once(half, channels):
    value, locations, weights = inputs(3, PYRAMID, channels)
    tensors = (value.to(half), locations, weights.to(half))
    one_rounding = torch.finfo(half).eps
    assert_like_the_definition(native.ms_deform_attn, tensors, PYRAMID, one_rounding, one_rounding)


def test_points_on_the_border_see_half_of_it_and_outside_nothing():
    value = torch.arange(1.0, 5.0).view(1, 4, 1, 1)  # a map of two by two cells
    at = [(0.0, 0.25), (1.0, 0.75), (0.25, 0.0), (0.25, 0.25), (0.5, 0.5), (-0.25, 0.25), (1.25, 1.25), (9.0, -9.0)]
    locations = torch.tensor(at).view(1, 8, 1, 1, 1, 2)
    out = native.ms_deform_attn(value, [(2, 2)], locations, torch.ones(1, 8, 1, 1, 1))
    assert out.flatten().tolist() == [0.5, 2.0, 0.5, 1.0, 2.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("far", [1e9, 1e30, float("inf"), float("nan")])
def test_a_point_nowhere_reads_nothing_that_is_not_there(far):
    value, locations, weights = inputs(4, PYRAMID, 32)
    locations[0, 0] = far
    locations[0, 1, ..., 0] = -far
    found = results(native.ms_deform_attn, (value, locations, weights), PYRAMID)
    is_number = abs(far) < float("inf")
    assert not found[0][0, :2].any() if is_number else found[0][0, :2].isnan().all()
    assert found[0][0, 2:].isfinite().all()
    assert found[0][1].isfinite().all()
    assert not found[1].isinf().any()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_in_the_value_comes_out_where_it_is_seen_and_nowhere_else(dtype, wrong):
    value, locations, weights = inputs(5, PYRAMID, 32)
    locations[0, 0] = 0.5
    locations[:, 1:] = 9.0
    value[0, 16 * 7 + 7] = wrong
    out = native.ms_deform_attn(value.to(dtype), PYRAMID, locations, weights)
    assert not out[0, 0].isfinite().any()
    assert out[:, 1:].isfinite().all()
    assert out[1].isfinite().all()


def test_no_query_is_an_answer_of_length_zero():
    found = results(native.ms_deform_attn, inputs(6, PYRAMID, 32, queries=0), PYRAMID)
    assert found[0].shape == (2, 0, 96)
    assert not found[1].any()


def test_tensors_need_not_be_contiguous():
    tensors = inputs(7, PYRAMID, 32)
    spread = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in spread)
    assert_like_the_definition(native.ms_deform_attn, spread, PYRAMID)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_the_number_of_threads_nor_the_run_changes_a_bit(dtype):
    value, locations, weights = inputs(8, PYRAMID, 32, queries=100)
    tensors = (value.to(dtype), locations, weights)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 3, 100):
            torch.set_num_threads(threads)
            found.append(results(native.ms_deform_attn, tensors, PYRAMID))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("which", "cut"), [(0, 1), (1, 2), (1, 3), (2, 1), (2, 3)])
def test_shapes_that_do_not_fit_are_refused(which, cut):
    tensors = list(inputs(9, PYRAMID, 8))
    tensors[which] = tensors[which].narrow(cut, 0, tensors[which].shape[cut] - 1)
    with pytest.raises(ValueError, match="do not fit"):
        native.ms_deform_attn(tensors[0], PYRAMID, *tensors[1:])


def _answer(tensors, queue):
    torch.set_num_threads(2)
    queue.put(native.ms_deform_attn(tensors[0], PYRAMID, *tensors[1:]).sum().item())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_after_a_call_computes_too():
    tensors = inputs(10, PYRAMID, 32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        wanted = native.ms_deform_attn(tensors[0], PYRAMID, *tensors[1:]).sum().item()
    finally:
        torch.set_num_threads(before)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_answer, args=(tensors, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == pytest.approx(wanted, rel=1e-6)
    finally:
        child.kill()
        child.join()


def test_it_works_in_the_layer_under_autocast_and_in_inference_mode():
    torch.manual_seed(0)
    layer, plain = MSDeformAttn(64, 4, 2, 4, "cpp"), MSDeformAttn(64, 4, 2, 4)
    plain.load_state_dict(layer.state_dict())
    query, source = torch.randn(1, 9, 64), torch.randn(1, 340, 64)
    references = torch.rand(1, 9, 4, 2)
    for amp in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            ours, theirs = (x(query, references, source, PYRAMID, None) for x in (layer, plain))
        assert (ours - theirs).abs().max() <= (1e-2 if amp else 1e-5) * theirs.abs().max()


@pytest.mark.slow
def test_torch_compile_takes_it_as_one_operation():
    tensors = inputs(11, PYRAMID, 32)
    compiled = torch.compile(native.ms_deform_attn, backend="aot_eager", fullgraph=True)
    found = results(compiled, tensors, PYRAMID)
    assert all(map(torch.equal, found, results(native.ms_deform_attn, tensors, PYRAMID)))
    torch.library.opcheck(native._forward, (tensors[0], [h for h, _ in PYRAMID], [w for _, w in PYRAMID], *tensors[1:]))


@pytest.fixture
def forgotten():
    """Whether there is a compiler is asked anew."""
    asked = (choose, native.why_not, native._library)
    for question in asked:
        question.cache_clear()
    yield
    for question in asked:
        question.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("compiler", "reason"), [("false", "failed with exit code 1"), ("no-such-program", "cannot be run")]
)
def test_a_wish_that_no_compiler_can_meet_is_an_error_that_says_why(tmp_path, monkeypatch, compiler, reason):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"'cpp' cannot be used on cpu: the C.. compiler {compiler} {reason}"):
        choose("cpp", "cpu")
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.usefixtures("forgotten")
def test_auto_takes_it_on_a_cpu_and_else_sparse_with_one_warning_where_the_compiler_fails(tmp_path, monkeypatch):
    speed = load_config(CONFIG).speed
    assert speed_up([], speed, torch.device("cpu")) == "deformable attention: cpp (auto)"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for compiler, start in (("false", "warning: "), ("", "")):
        for question in (choose, native.why_not, native._library):
            question.cache_clear()
        monkeypatch.setenv("CXX", compiler)
        monkeypatch.setattr("models.ops.native_library.COMPILERS", ())
        lines = speed_up([], speed, torch.device("cpu"))
        assert lines.startswith(f"{start}deformable attention: sparse (auto; cpp: ")
        assert lines.count("\n") == 0


@pytest.mark.slow
def test_a_program_that_wishes_for_it_without_a_compiler_ends(tmp_path):
    program = 'from models.ops.backends import choose; choose("cpp", "cpu")'
    environment = {**os.environ, "CXX": "/bin/false", "XDG_CACHE_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, text=True, capture_output=True)
    assert ended.returncode != 0
    assert "UserError: attn_backend 'cpp' cannot be used on cpu: the C++ compiler /bin/false failed" in ended.stderr


def test_it_is_for_cpus():
    assert choose("cpp", "cpu") == ("cpp", None)
    with pytest.raises(UserError, match="written for CPUs"):
        choose("cpp", "cuda")
