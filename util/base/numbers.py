"""Numbers as files of others hold them."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
