"""Contact sheets: X-rays with their ground truth boxes and detections, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from util.base.text import label, short_names
from util.detection.labels import Rectangle, place_label
from util.metrics.matching import as_one_class, deduplicate, match_boxes
from util.metrics.tables import Detections, GroundTruth
from util.plots.boxes import DASHED, DOTTED, SOLID, add_outline, draw_box, draw_page, legend_line, show_image

# bright on a dark X-ray, and of unlike lightness in grey
TRUTH_COLOR = "#5dff6e"
DETECTION_COLOR = "#ffa21f"
LEGEND = (
    ("ground truth (name above)", TRUTH_COLOR, SOLID),
    ("detection (name, score below)", DETECTION_COLOR, DASHED),
    ("best detection, below the score threshold", DETECTION_COLOR, DOTTED),
)
# width of a letter and height of a label, as shares of a panel
LETTER_WIDTH = 0.0195
LABEL_HEIGHT = 0.037
SHARE_WITHOUT_BOXES = 1 / 3  # of a sheet: images without ground truth, where every detection is a false positive


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a sheet. Boxes are x1, y1, x2, y2 in pixels of the image."""

    pixels: NDArray[np.uint8]  # [H, W] or [H, W, 3]
    caption: str
    truth_boxes: NDArray[np.float64]  # [N, 4]
    truth_names: Sequence[str]  # N
    detection_boxes: NDArray[np.float64]  # [M, 4]
    detection_names: Sequence[str]  # M
    scores: NDArray[np.float64]  # [M]
    threshold: float = -np.inf  # detections with a lower score are drawn dotted, and the caption does not count them

    @property
    def is_weak(self) -> NDArray[np.bool_]:
        """[M]: which detections lie below the threshold."""
        return self.scores < self.threshold


def draw_sheet(images: Sequence[AnnotatedImage], title: str) -> Figure:
    """Draw ground truth solid with its name above, detections dashed with name and score below."""
    has_weak = any(image.is_weak.any() for image in images)
    return _draw_sheet(images, title, num_entries=3 if has_weak else 2)


def draw_ground_truth_sheet(images: Sequence[AnnotatedImage], title: str) -> Figure:
    """Draw images that have ground truth only."""
    return _draw_sheet(images, title, num_entries=1)


def annotate_ground_truth(
    pixels: NDArray[np.uint8], caption: str, boxes: NDArray[np.float64], names: Sequence[str]
) -> AnnotatedImage:
    """One image with ground truth boxes [N, 4] and no detections."""
    return AnnotatedImage(pixels, caption, boxes, names, np.zeros((0, 4)), [], np.zeros(0))


def annotate_detections(
    pixels: NDArray[np.uint8], truth: GroundTruth, detections: Detections, image: int, threshold: float
) -> AnnotatedImage:
    """One image with its ground truth and detections; the caption counts them. Crowd regions are left out.

    Of `detections`, strongest first as `choose_detections` gives them, those of at least `threshold` are predictions.
    """
    is_true = (truth.image_id == image) & ~truth.is_crowd
    is_detection = detections.image_id == image
    names = short_names(truth.names)
    num_predictions = int((detections.score[is_detection] >= threshold).sum())
    counts = f"{is_true.sum()} GT, {num_predictions} prediction{'s' * (num_predictions != 1)}"
    if is_true.any():
        counts += f", {find_matched(truth.on([image]), detections.on([image]), threshold).sum()} TP"
    return AnnotatedImage(
        pixels=pixels,
        caption=f"{label(truth.files[image])}\n{counts}",
        truth_boxes=truth.xyxy[is_true],
        truth_names=[names[k] for k in truth.label[is_true].tolist()],
        detection_boxes=detections.xyxy[is_detection],
        detection_names=[names.get(k, str(k)) for k in detections.label[is_detection].tolist()],
        scores=detections.score[is_detection],
        threshold=threshold,
    )


def choose_detections(detections: Detections, threshold: float) -> Detections:
    """Keep detections of at least `threshold`, and the best one of an image that has none such. Strongest first."""
    order = np.argsort(-detections.score, kind="stable")
    best = np.zeros(len(detections), dtype=bool)
    best[order[np.unique(detections.image_id[order], return_index=True)[1]]] = True
    return detections.select(order[(best | (detections.score >= threshold))[order]])


def choose_images(truth: GroundTruth, detections: Detections, num: int, threshold: float = -np.inf) -> list[int]:
    """Choose up to `num` image ids: misses, true positives, and false positives on images without a box.

    Two thirds have boxes, half of them those with the most missed boxes, half those with the fewest; the others have
    the strongest false positives. Where one kind runs out, the other fills up. `detections` are strongest first, as
    `choose_detections` gives them; one below `threshold` matches no box. Crowd regions are left out.
    """
    top = {i: float(detections.score[detections.image_id == i].max(initial=0.0)) for i in truth.images}
    is_matched = find_matched(truth, detections, threshold)
    with_boxes = np.unique(truth.image_id[~truth.is_crowd]).tolist()
    recall = {i: float(is_matched[(truth.image_id == i) & ~truth.is_crowd].mean()) for i in with_boxes}
    worst = sorted(recall, key=lambda i: (recall[i], -top[i], i))
    best = sorted(recall, key=lambda i: (-recall[i], -top[i], i))
    empty = sorted(set(truth.images) - set(recall), key=lambda i: (-top[i], i))
    num_empty = min(len(empty), max(round(num * SHARE_WITHOUT_BOXES), num - len(recall)))
    num_full = min(len(recall), num - num_empty)
    misses = worst[: num_full // 2]
    return misses + [i for i in best if i not in misses][: num_full - len(misses)] + empty[:num_empty]


def find_matched(truth: GroundTruth, detections: Detections, threshold: float) -> NDArray[np.bool_]:
    """[N]: which ground truth boxes a detection of at least `threshold` matches, class-agnostic."""
    strong = detections.above(threshold)
    return np.isin(np.arange(len(truth)), match_boxes(as_one_class(truth), deduplicate(as_one_class(strong))).box)


def _draw_sheet(images: Sequence[AnnotatedImage], title: str, num_entries: int) -> Figure:
    if not images:
        raise ValueError("no image to draw")
    legend = [legend_line(*entry) for entry in LEGEND[:num_entries]]
    figure, panels = draw_page(title, len(images), min(4, len(images)), legend)
    for axes, image in zip(panels, images, strict=True):
        _draw_image(axes, image)
    return figure


def _draw_image(axes: Axes, image: AnnotatedImage) -> None:
    show_image(axes, image.pixels, image.caption)
    height, width = image.pixels.shape[:2]
    marks = [(box, name, TRUTH_COLOR, SOLID) for box, name in zip(image.truth_boxes, image.truth_names, strict=True)]
    columns = (image.detection_boxes, image.detection_names, image.scores, image.is_weak)
    for box, name, score, is_weak in zip(*columns, strict=True):
        marks.append((box, f"{name} {score:.2f}", DETECTION_COLOR, DOTTED if is_weak else DASHED))
    taken: list[Rectangle] = []
    for box, text, color, dashes in marks:
        draw_box(axes, box, color, dashes)
        size = (LETTER_WIDTH * len(text) * width, LABEL_HEIGHT * height)
        taken.append(place_label(box, size, (width, height), taken, above=color == TRUTH_COLOR))
        x1, y1, _, y2 = taken[-1]
        written = axes.text(x1, (y1 + y2) / 2, text, color=color, fontsize=8, fontweight="bold", va="center", zorder=4)
        written.set_in_layout(False)  # a long name must not shrink the images
        written.set_clip_on(True)
        add_outline(written, 0.6)
