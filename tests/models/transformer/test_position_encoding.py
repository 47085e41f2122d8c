import math

import numpy as np
import pytest
import torch

from models.transformer.position_encoding import PositionEmbeddingSine, box_sine_embedding
from tests.helpers.golden.model import figures


def gold(name):
    return torch.from_numpy(figures("components")[name])


@pytest.mark.parametrize(
    ("name", "arguments"), [("sine/T20_pos128", (128, 20, 20)), ("sine/TH20_TW10000_pos4", (4, 20, 10000))]
)
def test_the_embedding_of_a_map_is_the_official_one(name, arguments):
    found = PositionEmbeddingSine(*arguments)(gold("sine/mask"))
    np.testing.assert_allclose(found, gold(name), atol=2e-6)


def test_the_embedding_of_boxes_is_the_official_one():
    np.testing.assert_allclose(box_sine_embedding(gold("sineembed/in4"), 128), gold("sineembed/out4"), atol=2e-6)


def test_the_embedding_of_a_centre_is_the_first_half_of_that_of_its_box():
    found = box_sine_embedding(gold("sineembed/in4"), 128)
    np.testing.assert_allclose(found[..., :256], gold("sineembed/out2"), atol=2e-6)


def test_a_position_by_hand():
    # no padding: the last row is at 2 pi, the first of two at pi; features sin, cos of angle / T^(0, 0)
    found = PositionEmbeddingSine(2, 20, 20)(torch.zeros(1, 2, 4, dtype=torch.bool))[0]
    assert found.shape == (4, 2, 4)
    assert found[:2, 0, 0].tolist() == pytest.approx([0.0, -1.0], abs=1e-5)
    assert found[2:, 0, 0].tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert found[2:, 0, 3].tolist() == pytest.approx([math.sin(2 * math.pi), 1.0], abs=1e-4)


def test_padding_does_not_change_the_positions_of_the_image():
    embed = PositionEmbeddingSine(8, 20, 20)
    padded = torch.ones(1, 7, 9, dtype=torch.bool)
    padded[:, :4, :5] = False
    torch.testing.assert_close(embed(padded)[..., :4, :5], embed(torch.zeros(1, 4, 5, dtype=torch.bool)))


def test_temperatures_belong_to_their_axes():
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    one, other = PositionEmbeddingSine(8, 20, 20)(mask), PositionEmbeddingSine(8, 20, 10000)(mask)
    assert torch.equal(one[:, :8], other[:, :8])
    assert not torch.allclose(one[:, 8:], other[:, 8:])


def test_the_embedding_is_float32_whatever_the_network():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PositionEmbeddingSine(4, 20, 20)(torch.zeros(1, 3, 3, dtype=torch.bool)).dtype == torch.float32


@pytest.mark.parametrize("side", [1, 3, 200])
def test_a_map_that_is_all_padding_is_finite(side):
    assert torch.isfinite(PositionEmbeddingSine(4, 20, 20)(torch.ones(1, side, side, dtype=torch.bool))).all()
