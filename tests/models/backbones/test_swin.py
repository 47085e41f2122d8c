"""The mask of Swin's shifted windows."""

import pytest
import torch

from models.backbones.swin import region_mask


def test_a_shifted_window_looks_only_at_neighbours_of_the_original_map():
    """A 4 x 4 map in windows of 2, shifted by 1: the right windows hold 2 columns of opposite borders, and so on."""
    mask = region_mask([4, 4], 2, torch.device("cpu"))
    o, x = 0.0, -100.0
    columns_apart = [[o, x, o, x], [x, o, x, o], [o, x, o, x], [x, o, x, o]]
    rows_apart = [[o, o, x, x], [o, o, x, x], [x, x, o, o], [x, x, o, o]]
    all_apart = [[o, x, x, x], [x, o, x, x], [x, x, o, x], [x, x, x, o]]
    assert mask.tolist() == [[[o] * 4] * 4, columns_apart, rows_apart, all_apart]


@pytest.mark.parametrize("window", [2, 5, 7, 12])
def test_a_map_of_a_single_window_is_shifted_too(window):
    mask = region_mask([window, window], window, torch.device("cpu"))
    kept, wrapped = window - window // 2, window // 2
    assert mask.shape == (1, window**2, window**2)
    assert (mask == 0).sum() == (kept**2 + wrapped**2) ** 2
