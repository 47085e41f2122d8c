"""Choice of the backend that computes deformable attention: named by the config, or the best for the device.

A backend is a module of this folder with two functions: `ms_deform_attn`, with the contract of `definition`, and
`why_not(device_type)`, the reason why it cannot be used on "cpu" or "cuda", as the end of an error message, or None.
It is imported when it is first considered.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType

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
def choose_attention(backend: str, device_type: str) -> tuple[str, str | None]:
    """The backend for a device, and for "auto" why no better one can be used.

    Raises:
        UserError: a backend is named that cannot be used.
    """
    if backend != "auto":
        if reason := _module(backend).why_not(device_type):
            raise UserError(
                f"attn_backend '{backend}' cannot be used on {device_type}: {reason}; 'auto' takes what can"
            )
        return backend, None
    reasons: list[str] = []
    for name in AUTO.get(device_type, ()):
        reason = _module(name).why_not(device_type)
        if reason is None:
            return name, "; ".join(reasons) or None
        reasons.append(f"{name}: {reason}")
    return "torch", "; ".join(reasons) or None


@cache
def backend_for(backend: str, device_type: str) -> Backend:
    """The function of the backend that `choose_attention` takes."""
    return _module(choose_attention(backend, device_type)[0]).ms_deform_attn


def _module(name: str) -> ModuleType:
    return import_module(f"models.ops.{MODULES[name]}")
