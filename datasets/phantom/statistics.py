"""Statistics of the lesions of TBX11K, and draws from them: number, category, size, position.

Every constant is a statistic of the official trainval annotations (1211 boxes on 799 images); no box is copied.
"""

from dataclasses import dataclass

import numpy as np

ACTIVE = 1
LATENT = 2
UNCERTAIN = 3
POSITIVE_FRACTION = 600 / 6600

# Images with at least one box, by what they show; then boxes per image of that type.
IMAGE_TYPES = {"active": 630, "latent": 139, "both": 30}
BOXES_PER_IMAGE = {
    "active": {1: 344, 2: 267, 3: 16, 4: 3},
    "latent": {1: 73, 2: 63, 3: 3},
    "both": {2: 25, 3: 5},
}
OPPOSITE_SIDES = 342 / 355  # of the pairs of two-box images
# Two lesions of one image differ in height by a median of .037, in log area by one of .355. Each is drawn off their
# common value by a Laplace distribution; the difference of two draws of scale s has the median 1.146 s.
PAIR_CY_SCALE = 0.037 / 1.146
PAIR_LOG_AREA_SCALE = 0.355 / 1.146
OTHER_CY_SCALE = 0.1  # of a third or fourth lesion, and of two on the same side
HEIGHT_SHARE = 0.58  # of a difference in log area; the rest is width
# Share of the variance that two lesions of one image have in common, so that pairs keep the distributions below.
COMMON_SIZE = 0.78
COMMON_PLACE = 0.86

TOO_LARGE_TO_FIT = 0.035  # added to log sizes, because draws that touch each other are drawn again, and those are large
SMALLEST = 18 / 512
WIDEST = 211 / 512
TALLEST = 363 / 512
FRAME = (0.035, 0.02, 0.985, 0.94)  # left, top, right, bottom that no box leaves


@dataclass(frozen=True)
class BoxDistribution:
    """The distribution of one category's boxes, in fractions of the image."""

    log_w: tuple[float, float]  # mean, standard deviation of ln(width)
    log_h: tuple[float, float]
    corr: float  # of ln(width) and ln(height)
    left_share: float
    cx: tuple[tuple[float, float], tuple[float, float]]  # mean, standard deviation: left of the image, right of it
    cy: tuple[float, float, float]  # shift, median above the shift, log deviation: a shifted log-normal


BOX_DISTRIBUTIONS = {
    ACTIVE: BoxDistribution(
        log_w=(4.735 - np.log(512), 0.329),
        log_h=(4.781 - np.log(512), 0.449),
        corr=0.83,
        left_share=0.542,
        cx=((0.3173, 0.0495), (0.7166, 0.0552)),
        cy=(0.10, 0.191, 0.44),
    ),
    LATENT: BoxDistribution(
        log_w=(4.599 - np.log(512), 0.363),
        log_h=(4.621 - np.log(512), 0.471),
        corr=0.79,
        left_share=0.515,
        cx=((0.3320, 0.0517), (0.7058, 0.0520)),
        cy=(0.10, 0.178, 0.44),
    ),
}
BOX_DISTRIBUTIONS[UNCERTAIN] = BOX_DISTRIBUTIONS[ACTIVE]


@dataclass(frozen=True)
class Lesion:
    """One finding: its category id and its box (left, top, width, height) in fractions of the image."""

    category: int
    box: tuple[float, float, float, float]


def sample_lesions(rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Draw the lesions of one TB image. They lie inside `FRAME` and do not touch each other."""
    kind = _choose(rng, IMAGE_TYPES)
    count = _choose(rng, BOXES_PER_IMAGE[kind])
    categories = _categories(rng, kind, count)
    for _ in range(200):
        boxes = _sample_boxes(rng, categories)
        if not any(_touch(a, b) for i, a in enumerate(boxes) for b in boxes[:i]):
            break
    else:  # three or four lesions that would not fit: one is always possible
        categories = categories[:1]
        boxes = boxes[:1]
    return tuple(Lesion(c, b) for c, b in zip(categories, boxes, strict=True))


def _choose(rng, table):
    weights = np.array(list(table.values()), dtype=float)
    return list(table)[rng.choice(len(table), p=weights / weights.sum())]


def _categories(rng, kind, count):
    if kind == "both":
        return [ACTIVE, LATENT, *rng.choice([ACTIVE, LATENT], size=count - 2).tolist()]
    return [ACTIVE if kind == "active" else LATENT] * count


def _sample_boxes(rng, categories):
    """Boxes of all lesions of an image, whose sizes, heights and sides correlate."""
    shared = rng.standard_normal(3)
    first_left = rng.random() < BOX_DISTRIBUTIONS[categories[0]].left_share
    opposite = rng.random() < OPPOSITE_SIDES
    boxes = []
    for i, category in enumerate(categories):
        law = BOX_DISTRIBUTIONS[category]
        if len(categories) == 1:
            size, place = shared[:2], shared[2]
        else:
            size = np.sqrt(COMMON_SIZE) * shared[:2]
            place = np.sqrt(COMMON_PLACE) * shared[2]
        w_log = law.log_w[0] + TOO_LARGE_TO_FIT + law.log_w[1] * size[0]
        h_log = (
            law.log_h[0] + TOO_LARGE_TO_FIT + law.log_h[1] * (law.corr * size[0] + np.sqrt(1 - law.corr**2) * size[1])
        )
        shift, median, spread = law.cy
        cy = shift + median * np.exp(spread * place)
        if len(categories) > 1:
            area = rng.laplace(scale=PAIR_LOG_AREA_SCALE)
            w_log = w_log + (1 - HEIGHT_SHARE) * area
            h_log = h_log + HEIGHT_SHARE * area
            cy += rng.laplace(scale=PAIR_CY_SCALE if i < 2 and opposite else OTHER_CY_SCALE)
        on_left = first_left if i % 2 == 0 or (len(categories) == 2 and not opposite) else not first_left
        mean, deviation = law.cx[0 if on_left else 1]
        boxes.append(_inside_frame(rng.normal(mean, deviation), cy, np.exp(w_log), np.exp(h_log)))
    return boxes


def _inside_frame(cx, cy, w, h):
    """The box of that centre and size, cut to the largest size seen and moved into the frame."""
    left, top, right, bottom = FRAME
    w = np.clip(w, SMALLEST, WIDEST)
    h = np.clip(h, SMALLEST, TALLEST)
    x = np.clip(cx - w / 2, left, right - w)
    y = np.clip(cy - h / 2, top, bottom - h)
    return float(x), float(y), float(w), float(h)


def _touch(a, b):
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
