"""Counts how often a program waits for the device: every way in which tensors on it reach the host, or the other way.

A device is played by "meta", whose tensors have no content: what would have to wait for them raises or is counted.
"""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal}
TO_HOST = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy}
TO_DEVICE = {torch.tensor, torch.as_tensor}


class _Ops(TorchDispatchMode):
    """Operations whose result or its shape the host needs to know."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        on_device = any(isinstance(arg, torch.Tensor) and arg.device.type != "cpu" for arg in args)
        is_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        is_copy = packet in (aten._to_copy, aten.copy_) and _crosses(packet, args, kwargs or {})
        if is_copy or (on_device and (packet in READS or is_mask)):
            self.seen[str(packet)] += 1
        return func(*args, **(kwargs or {}))


def _crosses(packet, args, kwargs):
    """Whether a copy that nobody promised to be asynchronous goes from the host to the device or back."""
    source, target = (args[1], args[0].device) if packet is aten.copy_ else (args[0], kwargs.get("device"))
    return target is not None and source.device.type != torch.device(target).type and not kwargs.get("non_blocking")


class _Calls(TorchFunctionMode):
    """Methods that pass by the operations, by which all of a tensor reaches the host; zeros are what they find."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in TO_HOST and args[0].device.type != "cpu":
            self.seen[func.__name__] += 1
            return func(torch.zeros(args[0].shape, dtype=args[0].dtype))
        if func in TO_DEVICE and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            self.seen[func.__name__] += 1
        return func(*args, **kwargs)


class Waits:
    """`with Waits() as waits`: then `waits.seen` says by name how often the host would have waited."""

    def __init__(self):
        self.seen = Counter()

    def __enter__(self):
        self.modes = _Ops(self.seen), _Calls(self.seen)
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *problem):
        for mode in reversed(self.modes):
            mode.__exit__(*problem)

    @property
    def number(self):
        return sum(self.seen.values())
