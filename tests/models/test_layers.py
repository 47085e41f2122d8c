import numpy as np
import pytest
import torch
from torch import nn

from models.layers import MLP, at_least_float32, clones, inverse_sigmoid
from models.transformer.decoder import DecoderLayer, valid_ratios_of
from models.transformer.encoder import EncoderLayer, encoder_references
from tests.helpers.golden.fill_rule import fill
from tests.helpers.golden.model import figures
from tests.helpers.networks import tiny_dino

SHAPES = [(4, 5), (2, 3)]
SIZES = (32, 48, 2, 4, 3)  # width, feed-forward width, levels, heads, points


def gold(name):
    return torch.from_numpy(figures("components")[name])


def near(actual, wanted, atol=1e-12):
    np.testing.assert_allclose(actual.detach().numpy(), wanted.detach().numpy(), atol=atol, rtol=0)


def decoder_inputs():
    names = ("tgt", "query_pos", "ref4", "memory")
    content, position, references, memory = (gold(f"dec_layer/{name}") for name in names)
    return content.transpose(0, 1), position.transpose(0, 1), references.transpose(0, 1), memory


def test_the_encoder_layer_is_the_official_one():
    layer = fill(EncoderLayer(*SIZES), prefix="enc_layer.").double()
    inputs = [gold(f"enc_layer/{name}") for name in ("src", "pos", "ref")]
    near(layer(*inputs, SHAPES, gold("enc_layer/pad_mask")), gold("enc_layer/out"))


def test_the_decoder_layer_is_the_official_one():
    layer = fill(DecoderLayer(*SIZES), prefix="dec_layer.").double()
    content, position, references, memory = decoder_inputs()
    blocked = gold("dec_layer/attn_mask")
    assert blocked.any()
    found = layer(content, position, references, memory, SHAPES, gold("enc_layer/pad_mask"), blocked)
    near(found.transpose(0, 1), gold("dec_layer/out"))


def test_nobody_sees_an_absent_query():
    layer = fill(DecoderLayer(*SIZES), prefix="dec_layer.").double()
    content, position, references, memory = decoder_inputs()
    absent = torch.zeros(2, 7, dtype=torch.bool)
    absent[1, 2] = True

    def run(content, absent):
        return layer(content, position, references, memory, SHAPES, None, None, absent)

    changed = content.clone()
    changed[1, 2] += 5.0
    others = torch.ones(2, 7, dtype=torch.bool)
    others[1, 2] = False
    near(run(changed, absent)[others], run(content, absent)[others])
    assert not torch.allclose(run(changed, None)[others], run(content, None)[others])
    near(run(content, absent)[0], run(content, None)[0])


def test_dropout_acts_in_training_only():
    layer = fill(EncoderLayer(*SIZES, dropout=0.5), prefix="enc_layer.").double()
    inputs = [gold(f"enc_layer/{name}") for name in ("src", "pos", "ref")]

    def run():
        return layer(*inputs, SHAPES, gold("enc_layer/pad_mask"))

    assert not torch.equal(run(), run())
    layer.eval()
    near(run(), gold("enc_layer/out"))


def test_encoder_references_are_the_official_ones():
    shapes = [tuple(s) for s in gold("proposals/spatial_shapes").tolist()]
    found = encoder_references(shapes, gold("refpoints/valid_ratios"))
    near(found, gold("refpoints/encoder_reference_points"), atol=1e-6)


def test_encoder_references_by_hand():
    # a 2 x 2 map of which the left half is the image: cell (0, 0) is at 0.5 of 1 column, that is at 0.25 of the map
    found = encoder_references([(2, 2)], torch.tensor([[[0.5, 1.0]]]))
    near(found[0, :, 0], torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]))


def test_valid_ratios_are_shares_of_width_and_height():
    mask = torch.ones(2, 4, 8, dtype=torch.bool)
    mask[0, :3, :2] = False
    mask[1] = False
    near(valid_ratios_of([mask, mask[:, ::2, ::2]]), torch.tensor([[[0.25, 0.75], [0.25, 1.0]], [[1.0, 1.0]] * 2]))


def test_inverse_sigmoid_is_the_official_one():
    near(inverse_sigmoid(gold("inverse_sigmoid/in")), gold("inverse_sigmoid/out"), atol=1e-6)


def test_inverse_sigmoid_inverts_and_is_bounded():
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    near(inverse_sigmoid(x.sigmoid()).clamp(-6.9, 6.9), x.clamp(-6.9, 6.9), atol=1e-2)
    near(inverse_sigmoid(x[30:70].sigmoid()), x[30:70])
    assert inverse_sigmoid(torch.tensor([0.0, 1.0])).abs().max() == pytest.approx(6.907755)


def test_an_mlp_has_no_activation_at_its_end():
    mlp = MLP(2, 3, 1, 3)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(3, 2), (3, 3), (1, 3)]
    x = torch.randn(50, 2)
    hidden = mlp.layers[1](mlp.layers[0](x).clamp(min=0)).clamp(min=0)
    near(mlp(x), mlp.layers[2](hidden).detach(), atol=1e-6)
    nn.init.constant_(mlp.layers[-1].bias, -100.0)
    assert (mlp(x) < 0).all()


def test_clones_start_equal_and_are_independent():
    one, other = clones(nn.Linear(2, 2), 2)
    assert torch.equal(one.weight, other.weight)
    with torch.no_grad():
        one.weight.zero_()
    assert other.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised(dtype, wanted):
    assert at_least_float32(torch.ones(1, dtype=dtype)).dtype == wanted


def test_the_answer_is_not_rounded_to_half_precision():
    """Eight bits of logit would give most queries the score of another, and AP goes by their order."""
    model, batch = tiny_dino.build()[0].float().eval(), tiny_dino.batch([0], (0,))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch.images.float(), batch.mask).last.logits
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9
