"""What every backbone has."""

from torch import nn


class Backbone(nn.Module):
    """A module that takes images [B, 3, H, W] of any size to a list of maps [B, C_l, h_l, w_l].

    The caller pads the images of a batch right and bottom. Stage i has stride 4 * 2^i.
    """

    return_interm_indices: tuple[int, ...]  # the returned stages, rising
    num_channels: tuple[int, ...]  # C_l of each of them
