"""What is faster computes the same."""

import numpy as np
import pytest
import torch
from torch import nn

from models.backbones.resnet import FoldingBasicBlock, FoldingBottleneck, FrozenBatchNorm2d, ResNetBackbone, normed
from models.build import build_model
from models.layers import Linear
from tests.helpers.networks import tiny_dino
from util.config import load_config
from util.training.ema import WeightAverage

PLAIN = ("attn_backend=torch", "fast_layers=False")
FAST = ("attn_backend=auto", "fast_layers=True")
COUNTS = (2, 0, 1)


def relative(found, wanted):
    return (found - wanted).abs().max().item() / max(wanted.abs().max().item(), 1e-30)


def test_a_window_has_the_same_losses_and_gradients():
    tiny_dino.check_equal(
        tiny_dino.run_window(tiny_dino.cut(COUNTS, 2), *FAST), tiny_dino.run_window(tiny_dino.cut(COUNTS, 2), *PLAIN)
    )


@pytest.mark.parametrize(
    "option", ["activation_checkpointing=True", "channels_last=True", "dropout=0.1 activation_checkpointing=True"]
)
def test_other_ways_to_compute_change_nothing(option):
    options = option.split()
    usual = [o for o in options if o.startswith("dropout")]
    tiny_dino.check_equal(
        tiny_dino.run_window(tiny_dino.cut(COUNTS, 2), *PLAIN, *options),
        tiny_dino.run_window(tiny_dino.cut(COUNTS, 2), *PLAIN, *usual),
    )


def test_recomputed_layers_keep_less():
    def kept(*options):
        sizes = []
        model, criterion, _ = tiny_dino.build(*PLAIN, "enc_layers=4", *options)
        batch = tiny_dino.batch([0], [1])
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            outputs = model.train()(batch.images, batch.mask, batch.targets)
        criterion(outputs, batch.targets, 1.0)["loss"].backward()
        return sum(sizes)

    assert kept("activation_checkpointing=True") < 0.5 * kept()


def norm(channels, generator):
    frozen = FrozenBatchNorm2d(channels).double()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(frozen, name).copy_(torch.rand(channels, generator=generator, dtype=torch.float64) + 0.2)
    return frozen


def test_a_folded_norm_is_the_norm_and_passes_the_gradient_on():
    generator = torch.Generator().manual_seed(0)
    convolution, frozen = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False).double(), norm(6, generator)
    image = torch.randn(2, 3, 9, 7, generator=generator, dtype=torch.float64)
    answers = {}
    for is_fast in (False, True):
        frozen.is_fast = is_fast
        convolution.weight.grad = None
        out = normed(convolution, frozen, image)
        out.square().sum().backward()
        answers[is_fast] = out.detach(), convolution.weight.grad.clone()
    for found, wanted in zip(answers[True], answers[False], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [FoldingBasicBlock, FoldingBottleneck])
def test_a_backbone_with_folded_norms_is_the_same_in_float32(block):
    torch.manual_seed(0)
    backbone = ResNetBackbone(block, (1, 2, 1, 1), norm="frozen_bn", freeze_at=2, return_interm_indices=(1, 2, 3))
    images, maps = torch.randn(2, 3, 65, 97), {}
    for is_fast in (False, True):
        for module in backbone.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.is_fast = is_fast
        maps[is_fast] = backbone(images)
    for found, wanted in zip(maps[True], maps[False], strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("shape", [(1, 700, 64), (2, 3, 500, 64), (1, 1, 64)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_linear_layer_as_a_convolution_is_the_linear_layer(shape, has_bias):
    torch.manual_seed(0)
    layer, x = Linear(64, 48, bias=has_bias), torch.randn(shape)
    answers = {}
    for is_fast in (False, True):
        layer.is_fast = is_fast
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        out = layer(leaf)
        out.sin().sum().backward()
        answers[is_fast] = [out.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())]
    for found, wanted in zip(answers[True], answers[False], strict=True):
        assert found.shape == wanted.shape
        assert relative(found, wanted) < 1e-5


def test_under_autocast_a_linear_layer_stays_one():
    layer = Linear(64, 48)
    layer.is_fast = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(1, 700, 64)).dtype == torch.bfloat16


def test_float32_answers_are_the_same_to_1e_5():
    answers = {}
    for options in (PLAIN, FAST):
        model, _, _ = tiny_dino.build(*options)
        batch = tiny_dino.batch([0, 1], [0, 0])
        with torch.inference_mode():
            answers[options] = model.float().eval()(batch.images.float(), batch.mask)
    for found, wanted in zip(answers[FAST].layers, answers[PLAIN].layers, strict=True):
        assert relative(found.logits, wanted.logits) < 1e-5
        assert relative(found.boxes, wanted.boxes) < 1e-5


def test_the_answer_alone_is_the_answer():
    model, _, _ = tiny_dino.build()
    batch = tiny_dino.batch([0, 1], [0, 0])
    with torch.inference_mode():
        whole = model.eval()(batch.images, batch.mask)
        alone = model(batch.images, batch.mask, only_last=True)
    assert len(alone.layers) == 1
    assert torch.equal(alone.last.logits, whole.last.logits)
    assert torch.equal(alone.last.boxes, whole.last.boxes)


def test_no_switch_changes_a_name_or_a_weight():
    def state(*options):
        torch.manual_seed(0)
        config = load_config(tiny_dino.CONFIG, options)
        return build_model(config, (1, 2, 3))[0].state_dict()

    plain, fast = state(*PLAIN), state(*FAST, "channels_last=True", "activation_checkpointing=True")
    assert list(plain) == list(fast)
    assert all(torch.equal(plain[name], fast[name]) for name in plain)


def test_the_averaged_model_keeps_its_switches():
    model, _, _ = tiny_dino.build(*FAST)
    average = WeightAverage(model, 0.9, 0).module
    assert {m.is_fast for m in average.modules() if hasattr(m, "is_fast")} == {True}


def test_bf16_is_as_near_to_float32_on_the_fast_path_as_on_the_plain_one():
    def answer(options, dtype):
        model, _, _ = tiny_dino.build(*options)
        batch = tiny_dino.batch([0, 1], [0, 0])
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = model.float().eval()(batch.images.float(), batch.mask)
        return outputs.proposals.logits.sort(dim=1).values  # selection may swap neighbours

    exact = answer(PLAIN, torch.float32)
    plain, fast = (relative(answer(options, torch.bfloat16), exact) for options in (PLAIN, FAST))
    assert plain > 0
    assert fast < 1.5 * plain
    np.testing.assert_array_less(0, fast)
