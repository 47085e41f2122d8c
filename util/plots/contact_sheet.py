"""Boxes on X-rays: what is there and what the model says is there, side by side on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray

from util.base.text import label, short_names
from util.metrics.matching import as_one_class, deduplicate
from util.metrics.tables import Detections, GroundTruth
from util.plots.style import head_page

# bright on a dark X-ray, and of unlike lightness in grey
TRUTH = "#5dff6e"
FOUND = "#ffa21f"
# dashes of detections
STRONG = (0, (4, 2))
WEAK = (0, (1, 2.5))
CASING = "#000000"
TILE_INCHES = 3.6
COLUMNS = 4  # of tiles on a sheet
# width and height of a label's letter, as shares of a tile of TILE_INCHES
CHARACTER = 0.0205
LINE = 0.034
SHARE_WITHOUT_BOXES = 1 / 3  # of a sheet: images without truth, where every detection is a false alarm


@dataclass(frozen=True)
class Tile:
    """One image of a sheet. Boxes are x1, y1, x2, y2 in pixels of the image."""

    image: NDArray[np.uint8]  # [H, W] or [H, W, 3]
    caption: str
    truth_boxes: NDArray[np.float64]  # [N, 4]
    truth_labels: Sequence[str]  # N
    found_boxes: NDArray[np.float64]  # [M, 4]
    found_labels: Sequence[str]  # M
    found_scores: NDArray[np.float64]  # [M]
    threshold: float = -np.inf  # detections with a lower score are drawn dotted, and the caption does not count them


def draw_sheet(tiles: Sequence[Tile], title: str) -> Figure:
    """A sheet of tiles with a legend: truth solid with its name above, detections dashed with name and score below."""
    has_weak = any((tile.found_scores < tile.threshold).any() for tile in tiles)
    return _draw_sheet(tiles, title, _legend()[: 3 if has_weak else 2])


def draw_truth_sheet(tiles: Sequence[Tile], title: str) -> Figure:
    """A sheet of tiles that have truth only."""
    return _draw_sheet(tiles, title, _legend()[:1])


def truth_tile(pixels: NDArray[np.uint8], caption: str, boxes: NDArray[np.float64], labels: Sequence[str]) -> Tile:
    """One image with true boxes [N, 4] and no detections."""
    return Tile(pixels, caption, boxes, labels, np.zeros((0, 4)), [], np.zeros(0))


def tile_of(pixels: NDArray[np.uint8], truth: GroundTruth, found: Detections, image: int, threshold: float) -> Tile:
    """One image with its boxes, named and counted; crowd regions are no boxes here.

    Of `found`, strongest first as `choose_detections` gives it, those of at least `threshold` are predictions.
    """
    there = (truth.image_id == image) & ~truth.is_crowd
    said = found.image_id == image
    names = short_names(truth.names)
    num_found = int(_found_boxes(truth, found, image, threshold).sum())
    num_said = int((found.score[said] >= threshold).sum())
    counts = f"{there.sum()} GT, {num_said} prediction{'s' * (num_said != 1)}"
    counts += f", {num_found} TP" if there.any() else ""
    return Tile(
        image=pixels,
        caption=f"{label(truth.files[image])}\n{counts}",
        truth_boxes=truth.xyxy[there],
        truth_labels=[names[k] for k in truth.label[there].tolist()],
        found_boxes=found.xyxy[said],
        found_labels=[names.get(k, str(k)) for k in found.label[said].tolist()],
        found_scores=found.score[said],
        threshold=threshold,
    )


def choose_detections(found: Detections, score: float) -> Detections:
    """Detections of at least `score`, and the best one of an image that has none such. Strongest first."""
    order = np.argsort(-found.score, kind="stable")
    best = np.zeros(len(found), dtype=bool)
    best[order[np.unique(found.image_id[order], return_index=True)[1]]] = True
    kept = order[(best | (found.score >= score))[order]]
    return Detections(found.images, found.image_id[kept], found.label[kept], found.xyxy[kept], found.score[kept])


def choose_images(truth: GroundTruth, found: Detections, num: int, threshold: float = -np.inf) -> list[int]:
    """Up to `num` image ids worth looking at: misses, hits, and images without a box that raise an alarm.

    Two thirds have boxes, half of them those with the most missed boxes, half those found best; the others are
    the strongest false alarms. Where one kind runs out, the other fills up. `found` is strongest first, as
    `choose_detections` gives it; a detection below `threshold` finds no box. Crowd regions are no boxes here.
    """
    top = {i: float(found.score[found.image_id == i].max(initial=0.0)) for i in truth.images}
    with_boxes = np.unique(truth.image_id[~truth.is_crowd]).tolist()
    share = {i: float(_found_boxes(truth, found, i, threshold).mean()) for i in with_boxes}
    missed = sorted(share, key=lambda i: (share[i], -top[i], i))
    hit = sorted(share, key=lambda i: (-share[i], -top[i], i))
    empty = sorted(set(truth.images) - set(share), key=lambda i: (-top[i], i))
    num_empty = min(len(empty), max(round(num * SHARE_WITHOUT_BOXES), num - len(share)))
    num_full = min(len(share), num - num_empty)
    misses = missed[: num_full // 2]
    hits = [i for i in hit if i not in misses][: num_full - len(misses)]
    return misses + hits + empty[:num_empty]


def hits(truth_boxes: NDArray, found_boxes: NDArray, iou: float = 0.5) -> NDArray[np.bool_]:
    """[N]: which true boxes are found, whatever the label, each detection being used once.

    Detections [M, 4] come strongest first and take the best true box [N, 4] that is still free.
    """
    taken = np.zeros(len(truth_boxes), dtype=bool)
    for box in found_boxes:
        overlap = np.where(taken, 0.0, _iou(truth_boxes, box))
        if overlap.max(initial=0.0) >= iou:
            taken[overlap.argmax()] = True
    return taken


def _draw_sheet(tiles: Sequence[Tile], title: str, legend: list[Line2D]) -> Figure:
    if not tiles:
        raise ValueError("no image to draw")
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width = max(columns * TILE_INCHES, 2 * TILE_INCHES)  # the heading needs the width of two
    figure = Figure(figsize=(width, rows * (TILE_INCHES + 0.3) + 0.8), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.01, hspace=0.01)
    head_page(figure, title, round(9 * width))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, tile in zip(panels, tiles, strict=False):
        _draw_tile(axes, tile)
    for axes in panels[len(tiles) :]:
        axes.set_axis_off()
    ncols = min(3, int(width / TILE_INCHES))  # an entry needs about the width of a tile
    place = {"loc": "outside lower center", "ncols": ncols}
    figure.legend(handles=legend, fontsize=10, frameon=False, handlelength=4, **place)
    return figure


def _found_boxes(truth: GroundTruth, found: Detections, image: int, threshold: float) -> NDArray[np.bool_]:
    """[N]: which boxes of an image detections of at least `threshold` find, classes as one."""
    boxes = truth.xyxy[(truth.image_id == image) & ~truth.is_crowd]
    rows = np.flatnonzero((found.image_id == image) & (found.score >= threshold))
    return hits(boxes, deduplicate(as_one_class(found.select(rows))).xyxy)


def _iou(boxes: NDArray, box: NDArray) -> NDArray:
    """[N, 4] and [4] -> [N]."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    inside = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - inside
    return np.divide(inside, union, out=np.zeros(len(boxes)), where=union > 0)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    axes.imshow(tile.image, cmap="gray" if tile.image.ndim == 2 else None, vmin=0, vmax=255)
    axes.set_title(tile.caption, fontsize=8.5, loc="left", pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    height, width = tile.image.shape[:2]
    labels = [f"{name} {score:.2f}" for name, score in zip(tile.found_labels, tile.found_scores, strict=True)]
    marks = [(box, text, TRUTH, "-") for box, text in zip(tile.truth_boxes, tile.truth_labels, strict=True)]
    dashes = [WEAK if score < tile.threshold else STRONG for score in tile.found_scores]
    marks += [(box, text, FOUND, dash) for box, text, dash in zip(tile.found_boxes, labels, dashes, strict=True)]
    written: list[NDArray] = []
    for box, text, color, linestyle in marks:
        _draw_box(axes, box, color, linestyle)
        written.append(_free_place(box, text, (height, width), above=color == TRUTH, taken=written))
    for (_, text, color, _), (x1, _, _, y2) in zip(marks, written, strict=True):
        tag = axes.text(x1, y2, text, color=color, ha="left", va="bottom", fontsize=8, fontweight="bold")
        tag.set_path_effects([withStroke(linewidth=2.2, foreground=CASING)])
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _draw_box(axes: Axes, box: NDArray, color: str, linestyle: object) -> None:
    x1, y1, x2, y2 = box
    frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.8, linestyle=linestyle)
    frame.set_path_effects([withStroke(linewidth=3.2, foreground=CASING), Normal()])
    axes.add_patch(frame)


def _free_place(
    box: NDArray, text: str, size: tuple[int, int], *, above: bool, taken: Sequence[NDArray]
) -> NDArray[np.float64]:
    """[4]: the rectangle of a text along an edge of its box, inside the image and off other texts where it can be."""
    height, width = size
    wide = CHARACTER * len(text) * width
    high = LINE * height
    x1, y1, x2, y2 = box
    rows = [y1 - 1.15 * high, y2 + 0.15 * high]
    corners = [(x, y) for y in (rows if above else rows[::-1]) for x in (x1, x2 - wide)]
    corners += [(x, y + step * high) for step in (1, -1, 2, -2) for x, y in corners[:2]]
    places = []
    for x, y in corners:
        x = np.clip(x, 0, max(0.0, width - wide))
        y = np.clip(y, 0, height - high)
        places.append(np.array([x, y, x + wide, y + high]))
    free = (p for p in places if not any((_iou(t[None], p) > 0).any() for t in taken))
    return next(free, places[0])


def _legend() -> list[Line2D]:
    casing = [withStroke(linewidth=4, foreground=CASING), Normal()]
    marks = {
        "truth (name above)": (TRUTH, "-"),
        "detection (name, score below)": (FOUND, STRONG),
        "best detection, below the score threshold": (FOUND, WEAK),
    }
    return [
        Line2D([], [], color=color, linewidth=2.2, linestyle=dash, label=label, path_effects=casing)
        for label, (color, dash) in marks.items()
    ]
