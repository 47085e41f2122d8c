"""What the four numbers of a box mean in a results file, and in which units they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from util.metrics.files import LAYOUTS, Layout, corners

Scale = tuple[float, float] | None  # (width, height) of every image in the units of the boxes; None: its own pixels
AnyScale = Scale | Literal["any"]
UNIT: Scale = (1.0, 1.0)


@dataclass(frozen=True)
class BoxFormat:
    """Layout and scale of boxes. The default is that of a COCO results file."""

    layout: Layout = "xywh"
    scale: Scale = None

    @property
    def flags(self) -> str:
        """The flags that choose this format."""
        return f"--box_format {self.layout} --box_scale {format_scale(self.scale)}"

    def __str__(self) -> str:
        """The format in words."""
        units = {None: "in pixels", UNIT: "in [0, 1]"}.get(self.scale, f"on images of {format_scale(self.scale)}")
        return f"{LAYOUTS[self.layout]} {units}"

    def to_pixels(self, boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 4] boxes of a file -> [N, 4] x1, y1, x2, y2 in pixels of their images, of sizes [N, 2] (w, h)."""
        return self.rescale(corners(boxes, self.layout), sizes)

    def rescale(self, xyxy: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of boxes [N, 4] whose layout is x1, y1, x2, y2 already."""
        return xyxy if self.scale is None else xyxy * np.tile(sizes / np.array(self.scale), 2)


def format_scale(scale: Scale) -> str:
    """Format a scale as --box_scale takes it."""
    names = {None: "pixels", UNIT: "unit"}
    return names[scale] if scale in names else ",".join(f"{side:g}" for side in scale or ())


def parse_scale(text: str) -> AnyScale:
    """Parse a scale: pixels, unit, W,H, N for N,N, or any.

    Raises:
        ValueError: it is none of these.
    """
    names: dict[str, AnyScale] = {"pixels": None, "unit": UNIT, "any": "any"}
    if text in names:
        return names[text]
    sides = [float(side) for side in text.replace("x", ",").split(",")]
    if len(sides) > 2 or not all(0 < side < np.inf for side in sides):
        raise ValueError(text)
    return sides[0], sides[-1]
