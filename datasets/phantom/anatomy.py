"""The healthy chest: one patient's geometry, and its X-ray as a density map.

Coordinates are fractions of the image, x to the right, y downwards; "left" and "right" are the viewer's.
Densities add up along the ray, and a film shows their sum: about 0 in air, 1 behind bone and abdomen.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.phantom.fields import axes, cloud, enlarge, smooth
from datasets.phantom.statistics import Lesion

BORDER = 0.04  # drawn around the image, so that a tilted chest leaves no empty corner
STEEPEST = 3.0  # degrees of tilt that the margin allows
CANDIDATES = 24  # patients drawn before the one is chosen whose lungs hold the lesions best


@dataclass(frozen=True)
class Lung:
    """One lung field: between an inner and an outer profile, from the apex to the dome of the diaphragm."""

    side: int  # -1 left of the image, +1 right
    middle: float  # x of the patient's midline
    inner: float  # distance of the medial edge from the midline
    outer: float  # largest distance of the lateral edge
    apex: float  # y of the top
    dome: float  # y of the highest point of the diaphragm

    def inner_edge(self, y: np.ndarray) -> np.ndarray:
        """Distance from the midline at which the lung begins."""
        down = np.clip((y - self.apex) / (self.dome - self.apex), 0, 1.2)
        hilum = 0.022 * np.exp(-(((down - 0.48) / 0.16) ** 2))
        return self.inner + hilum + 0.03 * np.clip(0.18 - down, 0, 1) / 0.18 * 0.8

    def outer_edge(self, y: np.ndarray) -> np.ndarray:
        """Distance from the midline at which the lung ends: a bullet."""
        down = np.clip((y - self.apex) / (self.dome + 0.06 - self.apex), 0, 1)
        return 0.07 + (self.outer - 0.07) * np.sqrt(1 - (1 - down) ** 2.3) ** 0.95

    def lower_edge(self, x: np.ndarray) -> np.ndarray:
        """Height of the diaphragm at x: a dome with its top in the medial half, deep at the lateral wall."""
        across = (self.side * (x - self.middle) - self.inner) / (self.outer - self.inner)
        off = np.clip(across, -0.2, 1.2) - 0.38
        return self.dome + np.where(off > 0, 0.10, 0.055) * np.abs(off / 0.62) ** 1.9

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which of the points lie in the lung field."""
        across = self.side * (x - self.middle)
        inside = (across > self.inner_edge(y)) & (across < self.outer_edge(y))
        return inside & (y > self.apex) & (y < self.lower_edge(x))


@dataclass(frozen=True)
class Thorax:
    """One patient, drawn at random; every number a fraction of the image."""

    lungs: tuple[Lung, Lung]
    middle: float
    tilt: float  # degrees
    heart: float  # width of the heart shadow to the right of the midline
    torso: float  # half width of the trunk below the armpits
    shoulder: float  # y of the shoulders at the midline
    fat: float  # 0 slim to 1 stout
    breasts: float  # 0 none
    ribs: int
    air: float  # how dark the lungs are
    bubble: tuple[float, float]  # stomach: distance from the midline, how dark
    turn: float  # how much higher the left collar bone stands than the right

    @property
    def aorta(self) -> float:
        """Height of the aortic arch."""
        return self.lungs[1].apex + 0.27 * (self.lungs[1].dome - self.lungs[1].apex)


def sample_thorax(rng: np.random.Generator) -> Thorax:
    """Draw a patient at random."""
    middle = 0.515 + rng.normal(0, 0.012)
    apex = rng.uniform(0.06, 0.15)
    dome = rng.uniform(0.60, 0.78)
    width = rng.uniform(0.315, 0.41)
    left, right = (
        Lung(
            side=side,
            middle=middle,
            inner=0.058 + rng.normal(0, 0.006),
            outer=width + rng.normal(0, 0.014),
            apex=apex + rng.normal(0, 0.006),
            dome=dome + (0.012 if side > 0 else -0.012) + rng.normal(0, 0.01),
        )
        for side in (-1, 1)
    )
    return Thorax(
        lungs=(left, right),
        middle=middle,
        tilt=float(np.clip(rng.normal(0, 1.3), -STEEPEST, STEEPEST)),
        heart=rng.uniform(0.125, 0.185),
        torso=width + rng.uniform(0.055, 0.16),
        shoulder=rng.uniform(-0.02, 0.05),
        fat=rng.uniform(0, 1),
        breasts=rng.uniform(0.4, 1) if rng.random() < 0.4 else 0.0,
        ribs=int(rng.integers(9, 11)),
        air=rng.uniform(0.85, 1.1),
        bubble=(rng.uniform(0.12, 0.22), rng.uniform(0.0, 0.7)),
        turn=rng.normal(0, 0.006),
    )


def choose_thorax(rng: np.random.Generator, lesions: tuple[Lesion, ...]) -> Thorax:
    """Of a few random patients, the one whose lungs hold the lesions best."""
    patients = [sample_thorax(rng) for _ in range(CANDIDATES)]
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    points = [
        (x + w / 2 + 0.42 * w * np.cos(angles), y + h / 2 + 0.42 * h * np.sin(angles))
        for x, y, w, h in (lesion.box for lesion in lesions)
    ]
    return max(patients, key=lambda p: sum(sum(lung.holds(x, y).mean() for lung in p.lungs) for x, y in points))


def render_chest(thorax: Thorax, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Density [size, size] of the healthy patient, and how much lung lies behind each pixel, 0 to 1."""
    density, lung, ground = (enlarge(f, size) for f in _soft_parts(thorax, rng, (size + 1) // 2))
    density = density.copy()
    x, y = axes(size, BORDER)
    for draw in (_spine, _ribs, _shoulders, _clavicles):
        draw(density, thorax, x, y, ground)
    density += _vessels(thorax, rng, size) * (0.15 + 0.85 * lung)
    return _tilt(density, thorax.tilt), _tilt(lung, thorax.tilt)


def _soft_parts(thorax, rng, size):
    """All that has no fine detail: the density, the lung, and the ground on which bones show, each [size, size]."""
    x, y = axes(size, BORDER)
    body, depth = _body(thorax, x, y)
    abdomen = _abdomen(thorax, x, y)
    heart = _heart(thorax, x, y)
    lung = _air(thorax, x, y) * (1 - 0.92 * heart)
    centre = np.exp(-(((x - thorax.middle) / 0.10) ** 2))
    density = 0.30 + (0.32 + 0.10 * thorax.fat) * depth + 0.16 * centre * depth + 0.17 * abdomen
    density += 0.06 * heart * (1 - np.minimum(abdomen, 1))
    density -= thorax.air * 0.36 * lung
    if thorax.breasts:
        density += _breasts(thorax, x, y)
    density += 0.020 * cloud(rng, size, 3) + 0.010 * cloud(rng, size, 12) + 0.012 * cloud(rng, size, 40) * lung
    return density * body, lung, body * (1 - 0.65 * np.minimum(abdomen, 1))


def _body(thorax, x, y):
    """Silhouette of trunk, shoulders and neck, and a depth that grows from the skin inwards."""
    across = np.abs(x - thorax.middle)
    trunk = thorax.torso + 0.03 * smooth((y - 0.6) / 0.4) + 0.45 * smooth((0.60 - y) / 0.34)
    side = trunk - across
    slope = thorax.shoulder + 0.15 * smooth((across - 0.08) / 0.36) - 0.4 * smooth((0.15 - across) / 0.085)
    top = y - slope
    silhouette = smooth(side / 0.018) * smooth(top / 0.018)
    depth = smooth(np.minimum(side, 0.7 * top + 0.05) / 0.20)
    return silhouette, depth


def _air(thorax, x, y):
    air = np.zeros((y.shape[0], x.shape[1]), np.float32)
    for lung in thorax.lungs:
        across = lung.side * (x - thorax.middle)
        outer = lung.outer_edge(y)
        field = smooth((across - lung.inner_edge(y) + 0.006) / 0.04) * smooth((outer - across) / 0.02)
        field *= smooth((lung.lower_edge(x) - y) / 0.012) * smooth((y - lung.apex) / 0.03)
        air += field * (0.72 + 0.28 * smooth((outer - across) / 0.14))
    return air


def _abdomen(thorax, x, y):
    """Below the diaphragm; a stomach bubble lies under the right dome."""
    left, right = thorax.lungs
    across = np.abs(x - thorax.middle)
    share = smooth((x - thorax.middle + 0.05) / 0.10)
    edge = (1 - share) * left.lower_edge(x) + share * right.lower_edge(x)
    wall = smooth((thorax.torso - 0.005 - across) / 0.08)
    below = smooth((y - edge) / 0.014) * (0.35 + 0.65 * wall)
    bubble = np.exp(-(((x - thorax.middle - thorax.bubble[0]) / 0.05) ** 2) - ((y - right.dome - 0.06) / 0.022) ** 2)
    return below * (1 - thorax.bubble[1] * bubble) + 0.35 * smooth((y - edge - 0.02) / 0.2) * wall


def _heart(thorax, x, y):
    """Heart and great vessels, 0 to 1."""
    dome = thorax.lungs[1].dome
    centre_y = dome - 0.09
    across = x - thorax.middle
    lean = 0.35 * (y - centre_y)
    heart = 1 - np.hypot((across - 0.30 * thorax.heart - lean) / (0.84 * thorax.heart), (y - centre_y) / 0.165)
    knob = 1 - np.hypot((across - 0.05) / 0.042, (y - thorax.aorta) / 0.045)
    band = smooth((0.085 - np.abs(across)) / 0.035) * smooth((y - 0.1) / 0.1)
    return np.maximum(np.maximum(smooth(heart / 0.13), smooth(knob / 0.4)), 0.7 * band)


def _spine(density, thorax, x, y, ground):
    """Vertebrae, and the dark trachea before them."""
    reach = np.abs(x[0] - thorax.middle) < 0.06
    cut = slice(*np.flatnonzero(reach)[[0, -1]] + [0, 1])
    across = np.abs(x[:, cut] - thorax.middle)
    column = smooth((0.046 - across) / 0.012)
    discs = np.cos(2 * np.pi * y * (20 - 6 * y))
    split = thorax.aorta + 0.05
    trachea = smooth((0.021 - across) / 0.012) * smooth((split - y) / 0.04)
    density[:, cut] += (column * (0.035 + 0.018 * discs) - 0.085 * trachea) * ground[:, cut]


def _ribs(density, thorax, x, y, ground):
    """Posterior ribs arch down to the side wall; anterior ribs rise to it from below and end in cartilage."""
    for lung in thorax.lungs:
        across = lung.side * (x - thorax.middle)
        height = lung.dome + 0.07 - lung.apex
        for k in range(thorax.ribs):
            top = lung.apex - 0.03 + height * (k + 0.3) / thorax.ribs
            fall = 0.055 + 0.011 * k
            reach = float(lung.outer_edge(np.float32(top + fall))) + 0.010
            u = np.clip((across - 0.045) / (reach - 0.045), 0, 1.05)
            line = top + fall * u**2.4 - 0.020 * np.sin(np.pi * np.clip(u * 1.2, 0, 1))
            fade = smooth((u + 0.02) / 0.24) * smooth((1.03 - u) / 0.04)
            _add_band(density, y, line, 0.0125, 0.075 * fade, ground)
        for k in range(1, thorax.ribs - 3):
            outer = lung.apex + 0.06 + height * (k + 0.1) / thorax.ribs
            reach = float(lung.outer_edge(np.float32(outer))) + 0.010
            u = np.clip(across / reach, 0, 1.05)
            line = outer + (0.10 + 0.008 * k) * np.maximum(1 - u, 0) ** 0.9 + 0.03 * np.clip(u - 0.8, 0, 1)
            fade = smooth((u - 0.40) / 0.2) * smooth((1.03 - u) / 0.04) * min(1.0, 0.5 + 0.15 * k)
            _add_band(density, y, line, 0.0145, 0.045 * fade, ground)


def _shoulders(density, thorax, x, y, ground):
    """Shoulder blade, its spine, and the head of the upper arm."""
    for lung in thorax.lungs:
        across = lung.side * (x - thorax.middle)
        joint = lung.outer + 0.10
        level = lung.apex + 0.10
        u = np.clip((across - lung.outer + 0.08) / 0.16, -0.1, 1.1)
        inside = smooth(u / 0.2) * smooth((1.05 - u) / 0.2)
        _add_band(density, y, level + 0.055 - 0.05 * u, 0.016, 0.05 * inside, ground)
        blade = np.clip((across - lung.outer + 0.035) / 0.075, -0.1, 1.1)
        edge = smooth(blade / 0.15) * smooth((1.05 - blade) / 0.15)
        _add_band(density, y, level + 0.33 - 0.29 * blade, 0.045, 0.03 * edge, ground)
        columns = np.flatnonzero(np.abs(across[0] - joint) < 0.075)
        rows = np.flatnonzero(np.abs(y[:, 0] - level - 0.02) < 0.075)
        if len(columns) and len(rows):
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            away = np.hypot(across[:, part[1]] - joint, y[part[0]] - level - 0.02) / 0.055
            density[part] += 0.05 * smooth((1.05 - away) / 0.3) * (0.7 + 0.3 * np.minimum(away, 1) ** 4) * ground[part]
        shaft = np.clip((across - joint - 0.01) / 0.12, 0, 2)
        _add_band(density, y, level + 0.04 + 0.18 * shaft**1.3, 0.045, 0.04 * smooth(shaft / 0.3), ground)


def _clavicles(density, thorax, x, y, ground):
    for lung in thorax.lungs:
        u = np.clip((lung.side * (x - thorax.middle) - 0.03) / (lung.outer + 0.05), 0, 1.1)
        line = lung.apex + 0.085 + lung.side * thorax.turn - 0.065 * u - 0.016 * np.sin(2 * np.pi * u)
        fade = smooth(u / 0.05) * smooth((1.1 - u) / 0.15)
        _add_band(density, y, line, 0.0145 + 0.004 * np.abs(u - 0.5), 0.10 * fade, ground)


def _add_band(density, y, line, half, strength, ground):
    """Add a tube along y = line(x): a cortex brighter than the marrow. Touches only the rows and columns it needs."""
    columns = np.flatnonzero(strength[0] > 1e-4)
    if not len(columns):
        return
    cut = slice(columns[0], columns[-1] + 1)
    line = line[:, cut]
    strength = strength[:, cut]
    half = half[:, cut] if isinstance(half, np.ndarray) else half
    rows = np.flatnonzero((y > line.min() - 1.2 * np.max(half)) & (y < line.max() + 1.2 * np.max(half)))
    if not len(rows):
        return
    part = np.s_[rows[0] : rows[-1] + 1, cut]
    distance = np.abs(y[part[0]] - line) / half
    tube = smooth((1.12 - distance) / 0.24) * (0.62 + 0.38 * np.minimum(distance, 1) ** 3)
    density[part] += tube * strength * ground[part]


def _vessels(thorax, rng, size):
    """Bronchovascular markings: trees that branch outwards from the hila."""
    canvas = Image.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    for lung in thorax.lungs:
        hilum = (lung.middle + lung.side * (lung.inner + 0.012), lung.apex + 0.44 * (lung.dome - lung.apex))
        for angle in np.linspace(-1.45, 1.45, 10) + rng.normal(0, 0.2, 10):
            _branch(pen, rng, lung, hilum, angle, rng.uniform(0.10, 0.16), 190, 3)
    soft = canvas.filter(ImageFilter.GaussianBlur(size / 512 * 1.1))
    markings = np.asarray(soft, np.float32) / 255
    x, y = axes(size, BORDER)
    for lung in thorax.lungs:
        root = lung.middle + lung.side * (lung.inner + 0.008)
        middle = lung.apex + 0.44 * (lung.dome - lung.apex)
        markings = markings + 0.9 * np.exp(-(((x - root) / 0.034) ** 2) - ((y - middle) / 0.06) ** 2)
    return 0.095 * markings


def _branch(pen, rng, lung, start, angle, length, ink, generations):
    size = pen.im.size[0]
    bend = rng.normal(0, 0.55)
    points = [start]
    for step in range(4):
        heading = angle + bend * step / 4
        x, y = points[-1]
        points.append((x + lung.side * length / 4 * np.cos(heading), y + length / 4 * np.sin(heading)))
    width = max(1, round(size / 512 * (1 + generations)))
    pen.line(
        [tuple((p + BORDER) / (1 + 2 * BORDER) * size for p in point) for point in points],
        fill=ink,
        width=width,
    )
    if generations > 1:
        for turn in (-1, 1):
            fork = angle + bend + turn * rng.uniform(0.2, 0.5)
            _branch(pen, rng, lung, points[-1], fork, length * 0.72, int(ink * 0.72), generations - 1)


def _breasts(thorax, x, y):
    """Soft shadows over the lower lungs, with an edge below."""
    shadow = 0
    for lung in thorax.lungs:
        cx = lung.middle + lung.side * 0.22
        cy = lung.dome - 0.02
        inside = 1 - np.hypot((x - cx) / 0.155, (y - cy) / 0.15)
        shadow = shadow + smooth(inside / 0.35) * smooth((y - cy + 0.16) / 0.2)
    return 0.075 * thorax.breasts * shadow


def _tilt(field, degrees):
    """The inner part of the field, without its margin, turned about the centre."""
    size = len(field)
    turn = np.deg2rad(degrees)
    scale = 1 / (1 + 2 * BORDER)
    cos = scale * np.cos(turn)
    sin = scale * np.sin(turn)
    shift = size / 2 * np.array([1 - cos - sin, 1 - cos + sin])
    matrix = (cos, sin, shift[0], -sin, cos, shift[1])
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)).copy()
