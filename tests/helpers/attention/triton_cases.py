"""Deviations of the Triton kernels from the definition, measured on a CPU: python triton_cases.py

A program of its own, because TRITON_INTERPRET=1 counts where it is set before Triton is first imported. Writes one JSON
object: case -> quantity -> largest deviation, as a share of the definition's largest entry.
"""

import json
import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
from models.ops import triton_attention
from models.ops.definition import ms_deform_attn as define
from models.ops.ms_deform_attn import MSDeformAttn

QUANTITIES = ("out", "grad_value", "grad_locations", "grad_weights")


def draw(shapes, b=1, q=3, m=1, d=8, p=1, seed=0, dtype=torch.float32):
    """Inputs whose points lie inside and outside of the maps, and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (b, q, m, len(shapes), p)
    value = torch.randn(b, sum(h * w for h, w in shapes), m, d, generator=generator).to(dtype)
    locations = torch.rand(*sizes, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(sizes, generator=generator).to(dtype)
    return value, locations, weights, torch.randn(b, q, m * d, generator=generator).to(dtype)


def results(attend, shapes, value, locations, weights, grad_out):
    inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    out = attend(inputs[0], shapes, *inputs[1:])
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out)


def deviations(shapes, *inputs, attend=triton_attention.ms_deform_attn):
    found = results(attend, shapes, *inputs)
    wanted = results(define, shapes, *inputs)
    assert [(x.dtype, x.shape) for x in found] == [(x.dtype, x.shape) for x in wanted]
    return {name: deviation(x, y) for name, x, y in zip(QUANTITIES, found, wanted, strict=True)}


def deviation(found, wanted):
    if not wanted.numel():
        return 0.0
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()


def on_the_border():
    """Corners, edges and centres of cells; the sides are powers of two, so that every number here is exact."""
    value, locations, weights, grad_out = draw([(4, 8), (1, 1)], q=9, d=4)
    marks = torch.tensor([0.0, 1.0, 0.5, 1 / 16, 15 / 16, 1 / 8, -1 / 16, 17 / 16, -3.0])
    locations[0, :, 0, :, 0, 0] = marks[:, None]
    locations[0, :, 0, :, 0, 1] = marks.flip(0)[:, None]
    return [(4, 8), (1, 1)], value, locations, weights, grad_out


def not_contiguous():
    shapes = [(3, 2)]
    value, locations, weights, grad_out = draw(shapes, b=2, q=5, m=2)
    value = value.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    locations = locations.flip(-1).movedim(1, 0).contiguous().movedim(0, 1)
    weights = weights.repeat_interleave(2, dim=-1)[..., ::2]
    assert not any(tensor.is_contiguous() for tensor in (value, locations, weights))
    return shapes, value, locations, weights, grad_out[:1, :1].expand_as(grad_out)


def far_away():
    shapes = [(2, 3)]
    value, locations, weights, grad_out = draw(shapes, q=4)
    locations[0, 0, 0, 0, 0, 0], locations[0, 1, 0, 0, 0, 1] = 1e12, -1e12
    return shapes, value, locations, weights, grad_out


def not_a_number():
    """Of a point: 1.0 where another query's output or another cell's gradient takes it up, or its own does not."""
    value, locations, weights, grad_out = draw([(2, 3)], q=3)
    locations[0, 1] = torch.nan
    out, grad_value, *_ = results(triton_attention.ms_deform_attn, [(2, 3)], value, locations, weights, grad_out)
    is_told = out.isnan().all(-1).tolist() == [[False, True, False]]
    return {"out": float(not is_told), "grad_value": float(grad_value.isnan().any())}


def in_order(shapes, *inputs):
    torch.use_deterministic_algorithms(True)
    try:
        return deviations(shapes, *inputs)
    finally:
        torch.use_deterministic_algorithms(False)


def layer():
    """Of the whole layer, by the name of the backend."""
    layers = [MSDeformAttn(16, 2, 2, 2, name) for name in ("torch", "triton")]
    layers[1].load_state_dict(layers[0].state_dict())
    query, source = torch.randn(1, 3, 16), torch.randn(1, 8, 16)
    references = torch.rand(1, 3, 2, 4)
    wanted, found = (layer(query, references, source, [(3, 2), (2, 1)], None) for layer in layers)
    return {"out": deviation(found, wanted)}


def cases():
    yield "two levels, queries past a block", deviations([(3, 5), (1, 1)], *draw([(3, 5), (1, 1)], b=2, q=17))
    yield "channels no power of two", deviations([(2, 3)], *draw([(2, 3)], d=24, p=2, m=2))
    yield "no query", deviations([(2, 3)], *draw([(2, 3)], q=0))
    yield "bfloat16", deviations([(4, 3)], *draw([(4, 3)], p=2, dtype=torch.bfloat16))
    yield "in a fixed order", in_order([(3, 5), (2, 2)], *draw([(3, 5), (2, 2)], b=2, m=2, p=2))
    yield "layer", layer()
    yield "on the border", deviations(*on_the_border())
    yield "far away", deviations(*far_away())
    yield "not a number", not_a_number()
    yield "not contiguous", deviations(*not_contiguous())
    yield "not contiguous, in a fixed order", in_order(*not_contiguous())
    yield "float16", deviations([(4, 3)], *draw([(4, 3)], p=2, dtype=torch.float16))
    yield "bfloat16, in a fixed order", in_order([(4, 3)], *draw([(4, 3)], p=2, dtype=torch.bfloat16))
    value, locations, weights, grad_out = draw([(4, 3)], dtype=torch.bfloat16)
    yield "bfloat16 with weights in float32", deviations([(4, 3)], value, locations, weights.float(), grad_out)
    for seed in range(12):
        choose = random.Random(seed)
        shapes = [(choose.randint(1, 9), choose.randint(1, 9)) for _ in range(seed % 5 + 1)]
        sizes = {"b": choose.randint(1, 2), "q": choose.randint(1, 20), "m": choose.randint(1, 2)}
        sizes |= {"d": choose.choice([8, 16, 24, 32, 64]), "p": choose.randint(1, 4 if len(shapes) < 3 else 2)}
        attend = in_order if seed % 3 == 2 else deviations
        yield f"{shapes} {sizes}", attend(shapes, *draw(shapes, **sizes, seed=seed))
    shapes, tensors = [(3, 2), (1, 2)], draw([(3, 2), (1, 2)], b=2, m=2)
    whole = torch.compile(triton_attention.ms_deform_attn, fullgraph=True, backend="aot_eager")
    yield "compiled in one graph", deviations(shapes, *tensors, attend=whole)
    inputs = [tensor.requires_grad_() for tensor in tensors[:3]]
    told = torch.library.opcheck(torch.ops.dino.ms_deform_attn.default, (inputs[0], [3, 2, 1, 2], *inputs[1:]))
    yield "opcheck", {name: float(verdict != "SUCCESS") for name, verdict in told.items()}
    yield "why not", {"objections": float(triton_attention.why_not("cpu") is not None)}


if __name__ == "__main__":
    json.dump(dict(cases()), sys.stdout)
