"""Sines and logarithms by the code that computed those of the golden figures, on any processor.

Position encodings and first proposals are float32 also where the network is float64, and MKL has other code for other
processors: on some, losses differ from the golden ones by 4e-9. MKL_CBWR=COMPATIBLE takes its code for all of them, but
makes a product of matrices six times as slow, and is read once in a process. So these are computed in a process of
their own.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from models.transformer import position_encoding, transformer

FUNCTIONS = {"interleaved_sine": position_encoding, "make_proposals": transformer}  # and the module that calls it


@contextmanager
def generic_functions():
    """Have them computed by the code for all processors."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        elsewhere = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
        for name, module in FUNCTIONS.items():
            stack.enter_context(patch.object(module, name, _sent(elsewhere, name)))
        yield


def _sent(elsewhere, name):
    def call(*arguments):
        with patch.dict(os.environ, MKL_CBWR="COMPATIBLE"):
            return _tensors(elsewhere.submit(_apply, name, _arrays(arguments)).result())

    return call


def _apply(name, arguments):
    return _arrays(getattr(FUNCTIONS[name], name)(*_tensors(arguments)))


def _arrays(value):
    """Tensors, which may have no gradient, as arrays, at any depth."""
    if isinstance(value, list | tuple):
        return type(value)(map(_arrays, value))
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _tensors(value):
    if isinstance(value, list | tuple):
        return type(value)(map(_tensors, value))
    return torch.from_numpy(value.copy()) if hasattr(value, "__array__") else value
