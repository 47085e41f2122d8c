"""Names and shapes of the official networks, in tests/golden/params.json.gz.

One entry per network: DINO_4scale_91, DINO_4scale_4, DINO_5scale_91, DINO_4scale_swin_T_224_1k_91,
DINO_4scale_swin_L_384_22k_91, DINO_4scale_convnext_xlarge_22k_91 (the last number is num_classes). Of each:

    config, overrides          the official config file and the keys changed in it
    state_dict                 [[key, shape], ...] in order
    named_parameters_order     keys of named_parameters(): tied tensors once
    tied                       groups of keys that are one tensor
    frozen_parameters          keys of parameters that never train
    buffers, integer_buffers   keys of all buffers, and of those that hold indices
    num_state_dict_keys, num_parameters, num_parameters_trainable, num_buffer_elements, num_unique_parameter_tensors
"""

import gzip
import json
from functools import cache
from pathlib import Path

BACKBONE = "backbone.0."


@cache
def golden_params():
    """Every entry by its name."""
    return json.loads(gzip.decompress((Path(__file__).parents[2] / "golden" / "params.json.gz").read_bytes()))


def golden_backbone(name):
    """(key, shape) of the backbone of a network, in the order of its state dict, without the prefix."""
    rows = golden_params()[name]["state_dict"]
    return [(key.removeprefix(BACKBONE), tuple(shape)) for key, shape in rows if key.startswith(BACKBONE)]
