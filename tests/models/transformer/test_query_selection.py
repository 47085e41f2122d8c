import numpy as np
import pytest
import torch

from models.transformer.query_selection import gather_tokens, make_proposals, select_tokens
from tests.helpers.golden.model import figures


def gold(name):
    return torch.from_numpy(figures("components")[name])


def proposals():
    shapes = [tuple(s) for s in gold("proposals/spatial_shapes").tolist()]
    flat = gold("proposals/mask_flat").split([h * w for h, w in shapes], dim=1)
    masks = [part.view(-1, h, w) for part, (h, w) in zip(flat, shapes, strict=True)]
    return make_proposals(masks, shapes)


def test_proposals_are_the_official_ones():
    logits, usable = proposals()
    wanted = gold("proposals/output_proposals_unsigmoid")
    assert torch.equal(torch.isfinite(logits), torch.isfinite(wanted))
    np.testing.assert_allclose(logits, wanted, atol=2e-6)
    assert usable.any()
    assert not usable.all()
    memory = gold("proposals/memory")
    assert torch.equal(memory.masked_fill(~usable[..., None], 0), gold("proposals/output_memory"))


def test_on_a_wide_map_the_border_columns_propose_nothing():
    logits, _ = make_proposals([torch.zeros(1, 2, 60, dtype=torch.bool)], [(2, 60)])
    wanted = gold("proposals/wide_2x60")
    assert torch.isinf(wanted).any()
    np.testing.assert_allclose(logits, wanted, atol=2e-6)


def test_a_proposal_is_a_cell_centre_with_a_side_that_doubles_per_level():
    shapes = [(4, 4), (2, 2)]
    logits, usable = make_proposals([torch.zeros(1, *s, dtype=torch.bool) for s in shapes], shapes)
    boxes = logits.sigmoid()[0]
    assert usable.all()
    np.testing.assert_allclose(boxes[0], [0.125, 0.125, 0.05, 0.05], atol=1e-6)
    np.testing.assert_allclose(boxes[15], [0.875, 0.875, 0.05, 0.05], atol=1e-6)
    np.testing.assert_allclose(boxes[17], [0.75, 0.25, 0.1, 0.1], atol=1e-6)


def test_padding_and_levels_beyond_the_image_propose_nothing():
    shapes = [(1, 1)] * 6
    _, usable = make_proposals([torch.zeros(1, 1, 1, dtype=torch.bool)] * 6, shapes)
    assert usable[0].tolist() == [True] * 5 + [False]  # 0.05 * 2^5 is larger than the image
    mask = torch.tensor([[[False, False, True]]])
    _, usable = make_proposals([mask], [(1, 3)])
    assert usable[0].tolist() == [True, True, False]


def test_the_best_tokens_come_first():
    logits = torch.tensor([[[0.0, 1.0], [5.0, -9.0], [2.0, 3.0]]])
    assert select_tokens(logits, 2, None).tolist() == [[1, 2]]
    assert select_tokens(logits, 3, None).tolist() == [[1, 2, 0]]


def test_only_the_categories_of_the_data_can_win():
    logits = torch.tensor([[[9.0, 0.0, 1.0], [0.0, 2.0, 0.0], [8.0, 0.0, 3.0]]])
    assert select_tokens(logits, 3, torch.tensor([1, 2])).tolist() == [[2, 1, 0]]
    assert select_tokens(logits, 1, None).tolist() == [[0]]


def test_fewer_tokens_than_queries_is_an_error_that_says_the_mend():
    with pytest.raises(ValueError, match="num_queries 300 exceeds the 85 cells of the feature maps; use larger images"):
        select_tokens(torch.zeros(1, 85, 4), 300, None)


def test_gathering_takes_rows_image_by_image():
    x = torch.arange(12).view(2, 3, 2)
    found = gather_tokens(x, torch.tensor([[2, 0], [1, 1]]))
    assert found.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
