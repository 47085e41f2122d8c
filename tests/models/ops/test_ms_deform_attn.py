import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.definition import ms_deform_attn
from models.ops.ms_deform_attn import MSDeformAttn, sampling_locations
from tests.helpers.golden.fill_rule import fill
from tests.helpers.golden.model import figures

SHAPES = [(4, 5), (2, 3)]


def gold(name):
    return torch.from_numpy(figures("components")[name])


def near(actual, wanted, atol=1e-12):
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else wanted
    np.testing.assert_allclose(actual.detach().numpy(), wanted, atol=atol, rtol=0)


def pad_mask():
    return gold("msda_module/pad_mask")


def module():
    return fill(MSDeformAttn(32, 2, 4, 3)).double()


def test_forward_and_gradients_are_the_official_ones():
    inputs = [gold(f"msda_core/{name}").requires_grad_() for name in ("value", "loc", "weights")]
    value, locations, weights = inputs
    out = ms_deform_attn(value, SHAPES, locations, weights)
    near(out, gold("msda_core/out"))
    out.backward(gold("msda_core/grad_out"))
    for tensor, name in zip(inputs, ("grad_value", "grad_loc", "grad_weights"), strict=True):
        near(tensor.grad, gold(f"msda_core/{name}"), atol=1e-11)


@pytest.mark.parametrize("name", ["ref2", "ref4"])
def test_the_module_projects_samples_and_blends(name):
    # the official module under the fill rule is met in the layers of test_layers.py; here, equation 3 piece by piece
    attention, query, source, mask = module(), gold("msda_module/query"), gold("msda_module/src"), pad_mask()
    references = gold(f"msda_module/{name}")
    value = attention.value_proj(source).masked_fill(mask[..., None], 0).view(2, 26, 4, 8)
    offsets = attention.sampling_offsets(query).view(2, 5, 4, 2, 3, 2)
    weights = attention.attention_weights(query).view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 2, 3)
    locations = torch.empty_like(offsets)
    for level, (h, w) in enumerate(SHAPES):
        reference = references[:, :, level, None, None]
        if name == "ref2":
            locations[:, :, :, level] = reference + offsets[:, :, :, level] / torch.tensor([w, h])
        else:
            locations[:, :, :, level] = reference[..., :2] + offsets[:, :, :, level] / 3 * reference[..., 2:] / 2
    wanted = attention.output_proj(ms_deform_attn(value, SHAPES, locations, weights))
    near(attention(query, references, source, SHAPES, mask), wanted)


def bilinear(grid, x, y):
    """Value of an [h, w, D] map at (x, y) in [0, 1] edge to edge; zero outside."""
    h, w, _ = grid.shape
    x, y = x * w - 0.5, y * h - 0.5
    total = torch.zeros_like(grid[0, 0])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < h and 0 <= column < w:
                total += grid[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
)
def test_it_is_the_weighted_sum_of_bilinear_samples(seed, shapes):
    generator = torch.Generator().manual_seed(seed)
    b, q, m, d, p = 2, 3, 2, 2, 2
    total = sum(h * w for h, w in shapes)
    value = torch.randn(b, total, m, d, generator=generator, dtype=torch.float64)
    locations = torch.rand(b, q, m, len(shapes), p, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(b, q, m, len(shapes), p, generator=generator, dtype=torch.float64)
    wanted = torch.zeros(b, q, m, d, dtype=torch.float64)
    levels = value.split([h * w for h, w in shapes], dim=1)
    for i, j, head, level, point in np.ndindex(b, q, m, len(shapes), p):
        grid = levels[level][i, :, head].view(*shapes[level], d)
        x, y = locations[i, j, head, level, point].tolist()
        wanted[i, j, head] += weights[i, j, head, level, point] * bilinear(grid, x, y)
    near(ms_deform_attn(value, shapes, locations, weights), wanted.flatten(2))


def test_offsets_are_cells_around_a_point_and_half_sides_around_a_box():
    offsets = torch.zeros(1, 1, 1, 1, 4, 2)
    offsets[..., 0] = 2.0
    point = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    near(sampling_locations(point, offsets, [(5, 10)])[0, 0, 0, 0, 0], [0.7, 0.5], atol=1e-6)
    box = torch.tensor([0.5, 0.5, 0.4, 0.2]).view(1, 1, 1, 4)
    # two of four points' steps: half of the half side 0.2
    near(sampling_locations(box, offsets, [(5, 10)])[0, 0, 0, 0, 0], [0.6, 0.5], atol=1e-6)


def test_padding_changes_nothing_however_large_it_is():
    query, references = gold("msda_module/query"), gold("msda_module/ref2")
    source, mask = gold("msda_module/src"), gold("msda_module/pad_mask")
    assert mask.any()
    spoiled = source.masked_fill(mask[..., None], 1e6)
    near(module()(query, references, spoiled, SHAPES, mask), module()(query, references, source, SHAPES, mask), 1e-9)


def test_the_first_offsets_are_the_official_ones():
    found = MSDeformAttn(256, 4, 8, 4)
    wanted = gold("msda_init/sampling_offsets_bias_256_4_8_4")
    near(found.sampling_offsets.bias.view(wanted.shape), wanted, atol=1e-6)
    assert found.sampling_offsets.weight.abs().sum() == 0
    assert found.attention_weights.weight.abs().sum() == found.attention_weights.bias.abs().sum() == 0


def test_at_the_start_all_points_weigh_the_same():
    attention = MSDeformAttn(32, 2, 4, 3).double()
    torch.nn.init.eye_(attention.value_proj.weight)
    torch.nn.init.eye_(attention.output_proj.weight)
    source = torch.ones(2, 26, 32, dtype=torch.float64)
    centre = torch.full((2, 5, 2, 4), 0.5, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.1, 0.1])
    near(attention(torch.randn(2, 5, 32).double(), centre, source, SHAPES, None), np.ones((2, 5, 32)))


@pytest.mark.parametrize("references", ["ref2", "ref4"])
def test_half_precision_stays_close_and_samples_in_float32(references):
    attention = fill(MSDeformAttn(32, 2, 4, 3))
    inputs = [gold(f"msda_module/{name}").float() for name in ("query", references, "src")]
    wanted = attention(*inputs, SHAPES, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(*inputs, SHAPES, None)
    assert found.dtype == torch.bfloat16
    # bfloat16 has 8 bits: 0.4 % per rounding, a handful of roundings of values up to the largest one
    assert (found.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
    found.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())


def test_sampling_locations_are_float32_even_from_half_offsets():
    offsets = torch.zeros(1, 1, 1, 1, 1, 2, dtype=torch.bfloat16)
    references = torch.full((1, 1, 1, 2), 0.123456)
    assert sampling_locations(references, offsets, [(5, 10)]).dtype == torch.float32


def test_a_model_width_that_heads_do_not_divide_fails():
    with pytest.raises(RuntimeError):
        MSDeformAttn(30, 1, 4, 1)(torch.zeros(1, 1, 30), torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 30), [(1, 1)], None)
