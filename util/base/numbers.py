"""Numbers read from untrusted files."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """Return a finite number as a float, and None for any other value."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
