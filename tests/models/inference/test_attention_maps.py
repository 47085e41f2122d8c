"""Where the decoder looks: points and weights are those that its attention computes with."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.inference.attention_maps import recorded_cross_attention, trace_detection
from models.inference.detector import Detector, TrainedNetwork, View
from models.ops.definition import ms_deform_attn
from models.ops.ms_deform_attn import MSDeformAttn
from tests.helpers.networks.tiny_dino import build
from util.base.errors import UserError
from util.detection.fusion import build_merge
from util.training.precision import Precision

NAMES = {1: "one", 2: "two", 3: "three"}


@pytest.fixture(scope="module")
def detector():
    model, _, postprocess = build("nms_iou_threshold=0.0")
    network = TrainedNetwork(model.float(), postprocess, Precision("off", "cpu"), torch.device("cpu"))
    return Detector([View(network, 96, 128)], build_merge("wbf", 0.5, 12), names=NAMES, threshold=None)


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_points_are_those_that_attention_samples():
    torch.manual_seed(0)
    module = MSDeformAttn(16, 2, 4, 3)
    shapes = [(6, 5), (3, 3)]
    query, references, source = torch.randn(1, 7, 16), torch.rand(1, 7, 2, 4), torch.randn(1, 39, 16)
    locations, weights = module.sampling_points(query, references, shapes)
    value = module.value_proj(source).unflatten(-1, (4, 4))
    wanted = module.output_proj(ms_deform_attn(value, shapes, locations, weights))
    assert torch.equal(module(query, references, source, shapes, None), wanted)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(1, 7, 4))


@pytest.mark.parametrize("rank", [1, 5])
def test_the_last_layer_ends_at_the_detection(detector, image, rank):
    found = detector(image)
    look = trace_detection(detector, image, rank)
    assert (look.name, look.rank, look.num_detections) == (NAMES[found.label[rank - 1]], rank, len(found))
    assert look.score == pytest.approx(found.score[rank - 1])
    assert look.layers[-1].score == pytest.approx(look.score)
    np.testing.assert_allclose(look.layers[-1].box, found.xyxy[rank - 1], atol=1e-3)


def test_each_layer_has_a_point_for_each_head_level_and_point_and_its_weights_sum_to_one(detector, image):
    look = trace_detection(detector, image, 1)
    assert len(look.layers) == 3
    for layer in look.layers:
        assert layer.points.shape == (2 * 3 * 2, 2)
        assert layer.levels.tolist() == [0, 0, 1, 1, 2, 2] * 2
        assert layer.weights.sum() == pytest.approx(1)
    assert look.cells == pytest.approx((120 / 12, 120 / 6, 120 / 3))


def test_points_lie_about_the_box_that_the_layer_starts_from(detector, image):
    """A point is the centre plus an offset in half sides; the offsets of an untrained head are a side at most."""
    layer = trace_detection(detector, image, 1).layers[0]
    centre, half = (layer.reference[:2] + layer.reference[2:]) / 2, (layer.reference[2:] - layer.reference[:2]) / 2
    assert np.abs((layer.points - centre) / half).max() < 3


def test_nothing_is_left_hanging_on_the_network(detector, image):
    model = detector.views[0].network.model
    trace_detection(detector, image, 1)
    assert not any(layer.cross_attn._forward_pre_hooks for layer in model.transformer.decoder.layers)
    with recorded_cross_attention(model) as calls:
        detector(image)
    assert len(calls) == 3


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_a_rank_that_is_not_there_is_refused(detector, image, rank):
    with pytest.raises(UserError, match=f"--detection {rank}: the image has 12 detections"):
        trace_detection(detector, image, rank)
