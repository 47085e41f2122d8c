"""Which implementation of deformable attention computes it: by wish, or by device.

A backend is a module of this folder with two functions: `ms_deform_attn`, with the contract of `definition`, and
`why_not(device_type)`, what stands against using it on "cpu" or "cuda" here, as the end of an error message, or None.
It is imported when it is chosen and not before.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module

from torch import Tensor

from util.base.errors import UserError

MODULES = {
    "torch": "definition",
    "sparse": "sparse",
    "cpp": "native",
    "triton": "triton_attention",
}
# "auto" takes the first of these that can be used, else "torch".
AUTO = {"cpu": ("cpp", "sparse"), "cuda": ("triton",)}
Backend = Callable[[Tensor, list[tuple[int, int]], Tensor, Tensor], Tensor]


@cache
def choose(wish: str, device_type: str) -> tuple[str, str | None]:
    """The backend for a device, and what stood against a better one where the wish is "auto".

    Raises:
        UserError: an explicit wish cannot be met.
    """
    if wish != "auto":
        if reason := _module(wish).why_not(device_type):
            raise UserError(f"attn_backend '{wish}' cannot be used on {device_type}: {reason}; 'auto' takes what can")
        return wish, None
    objections = []
    for name in AUTO.get(device_type, ()):
        reason = _module(name).why_not(device_type)
        if reason is None:
            return name, "; ".join(objections) or None
        objections.append(f"{name}: {reason}")
    return "torch", "; ".join(objections) or None


@cache
def backend_for(wish: str, device_type: str) -> Backend:
    """The function behind `choose`."""
    return _module(choose(wish, device_type)[0]).ms_deform_attn


def _module(name: str):
    return import_module(f"models.ops.{MODULES[name]}")
