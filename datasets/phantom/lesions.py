"""Draw disease: tuberculosis inside given boxes, and other findings that a detector must not report.

Active: a cloud or a patch of soft nodules, at times with a cavity. Latent: fibrous strands and small dense
nodules. Both reach the four sides of their box, so that the box can be learnt from the image.
All functions add to a density map [size, size] in place; `lung` [size, size] in [0, 1] says where lung lies.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.phantom.anatomy import Thorax
from datasets.phantom.fields import axes, cloud, smooth
from datasets.phantom.statistics import LATENT, UNCERTAIN, Lesion

# Not tuberculosis, and how often each is the first finding of a sick patient.
FINDINGS = {"effusion": 0.26, "heart": 0.18, "haze": 0.22, "mass": 0.20, "device": 0.14}
TILE = 96  # side of the square on which a lesion is modelled before it is fitted to its box
ACTIVE_STRENGTH = (0.20, 0.32)
OUTSIDE_LUNG = 0.42  # what is left of a lesion where no lung lies behind it


def add_lesion(density: np.ndarray, lung: np.ndarray, lesion: Lesion, rng: np.random.Generator) -> None:
    """Add one tuberculosis lesion that fills its box."""
    size = len(density)
    left, top, width, height = (side * size for side in lesion.box)
    x0 = max(0, round(left))
    y0 = max(0, round(top))
    x1 = min(size, max(x0 + 2, round(left + width)))
    y1 = min(size, max(y0 + 2, round(top + height)))
    if x1 <= x0 or y1 <= y0:
        return
    if lesion.category == LATENT:
        opacity = _strands_and_nodules(rng, x1 - x0, y1 - y0, size, medial=1 if left + width / 2 < size / 2 else -1)
    else:
        opacity = _cloud_or_patches(rng, x1 - x0, y1 - y0)
        opacity *= rng.uniform(*ACTIVE_STRENGTH) * (0.75 if lesion.category == UNCERTAIN else 1)
    behind = OUTSIDE_LUNG + (1 - OUTSIDE_LUNG) * np.minimum(1, 1.2 * lung[y0:y1, x0:x1])
    density[y0:y1, x0:x1] += opacity * behind


def choose_findings(rng: np.random.Generator) -> list[str]:
    """One or two of `FINDINGS`."""
    count = 2 if rng.random() < 0.3 else 1
    return rng.choice(list(FINDINGS), size=count, replace=False, p=list(FINDINGS.values())).tolist()


def add_finding(density: np.ndarray, lung: np.ndarray, name: str, thorax: Thorax, rng: np.random.Generator) -> None:
    """Add one disease that is not tuberculosis. A large heart is a matter of the thorax: nothing to add here."""
    if name == "heart":
        return
    if name == "device":
        _device(density, thorax, rng)
    else:
        {"effusion": _effusion, "haze": _haze, "mass": _mass}[name](density, lung, thorax, rng)


def _cloud_or_patches(rng, width, height):
    """Opacity [height, width] in [0, 1] whose ragged outline touches all four sides."""
    x, y = axes(TILE)
    u = 2.5 * (x - 0.5)
    v = 2.5 * (y - 0.5)
    radius = (np.abs(u) ** 2.5 + np.abs(v) ** 2.5) ** (1 / 2.5)
    outline = 1 - radius + 0.13 * cloud(rng, TILE, 4) + 0.07 * cloud(rng, TILE, 9)
    mask = smooth(outline / 0.42)
    fine = 0.75 * cloud(rng, TILE, 11) + 0.65 * cloud(rng, TILE, 23)
    coarse = cloud(rng, TILE, 6)
    if rng.random() < 0.5:
        texture = 0.84 + 0.13 * coarse + 0.10 * fine
    else:
        texture = 0.62 + 0.42 * smooth(0.5 + 0.6 * fine + 0.35 * coarse)
    opacity = mask * np.clip(texture, 0.35, 1.2)
    if rng.random() < 0.25:
        opacity = _hollow(rng, opacity, x, y)
    return _fit(opacity, mask > 0.2, width, height)


def _hollow(rng, opacity, x, y):
    """A cavity: a dark centre with a bright rim."""
    cx, cy = rng.uniform(0.42, 0.58, 2)
    radius = rng.uniform(0.13, 0.22)
    reach = np.hypot(x - cx, (y - cy) * rng.uniform(0.85, 1.15)) / radius
    rim = np.exp(-(((reach - 1) / 0.22) ** 2))
    return opacity * (1 - 0.8 * smooth((1.1 - reach) / 0.45)) + 0.10 * rim


def _fit(opacity, extent, width, height):
    """Cut the tile to where `extent` holds, and stretch it over the box."""
    rows = np.flatnonzero(extent.any(1))
    columns = np.flatnonzero(extent.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    tile = Image.fromarray(opacity.astype(np.float32))
    return np.asarray(tile.resize((width, height), Image.Resampling.BICUBIC, box=box)).clip(0, None)


def _strands_and_nodules(rng, width, height, size, medial):
    """Opacity [height, width] of scars: strands that run towards the hilum, calcified nodules, a faint veil."""
    strands = Image.new("L", (width, height))
    nodules = Image.new("L", (width, height))
    pen = ImageDraw.Draw(strands)
    dot = ImageDraw.Draw(nodules)
    unit = size / 512
    for _ in range(int(rng.integers(10, 17))):
        start = rng.uniform([0, 0], [0.45, 0.7])
        end = rng.uniform([0.55, 0.3], [1.0, 1.0])
        t = np.linspace(0, 1, 12)[:, None]
        sway = np.sin(np.pi * t * [1.0, 2.0, 3.0]) @ rng.normal(0, [0.06, 0.025, 0.015])
        path = start + t * (end - start) + np.stack([sway, -sway], axis=1)
        if medial < 0:
            path = path * [-1, 1] + [1, 0]
        width_px = max(1, round(rng.uniform(1.5, 3.4) * unit))
        pen.line([tuple(p) for p in path * [width, height]], fill=int(rng.uniform(120, 240)), width=width_px)
    places = rng.uniform(0.08, 0.92, (int(rng.integers(10, 18)), 2))
    places[:4] = [(0.04, places[0, 1]), (0.96, places[1, 1]), (places[2, 0], 0.04), (places[3, 0], 0.96)]
    for px, py in places * [width, height]:
        radius = max(0.7, rng.uniform(2.4, 5.0) * unit)
        dot.ellipse((px - radius, py - radius, px + radius, py + radius), fill=int(rng.uniform(170, 255)))
    strands = strands.filter(ImageFilter.GaussianBlur(1.2 * unit))
    nodules = nodules.filter(ImageFilter.GaussianBlur(0.8 * unit))
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    veil = smooth((1.05 - np.hypot(2 * x[None] - 1, 2 * y[:, None] - 1)) / 0.25)
    drawn = 0.20 * np.asarray(strands, np.float32) / 255 + 0.30 * np.asarray(nodules, np.float32) / 255
    return drawn + 0.06 * veil


def _effusion(density, lung, thorax, rng):
    """Fluid in the pleural space: level in the lower lung, climbing the side wall."""
    x, y = axes(len(density))
    side = thorax.lungs[rng.integers(2)]
    level = side.dome - rng.uniform(0.03, 0.17)
    across = side.side * (x - side.middle)
    lateral = np.clip((across - side.inner) / (side.outer - side.inner), 0, 1.1)
    surface = level - 0.13 * lateral**3 + 0.02
    fluid = smooth((y - surface) / 0.035) * smooth(across / 0.03) * lung
    density += rng.uniform(0.26, 0.36) * fluid


def _haze(density, lung, thorax, rng):
    """A homogeneous veil over the base of one lung or both."""
    x, y = axes(len(density))
    sides = thorax.lungs if rng.random() < 0.35 else [thorax.lungs[rng.integers(2)]]
    for side in sides:
        cx = side.middle + side.side * rng.uniform(0.17, 0.24)
        cy = side.dome - rng.uniform(0.0, 0.05)
        reach = np.hypot((x - cx) / rng.uniform(0.13, 0.19), (y - cy) / rng.uniform(0.12, 0.19))
        density += rng.uniform(0.16, 0.26) * np.exp(-(reach**2)) * lung


def _mass(density, lung, thorax, rng):
    """One to three round masses with a sharp edge."""
    x, y = axes(len(density))
    shadow = np.zeros_like(density)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        side = thorax.lungs[rng.integers(2)]
        cx = side.middle + side.side * rng.uniform(0.12, side.outer - 0.09)
        cy = rng.uniform(side.apex + 0.3, side.dome - 0.06)
        radius = rng.uniform(0.028, 0.062)
        ball = np.clip(1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2, 0, 1)
        shadow = np.maximum(shadow, np.float32(rng.uniform(0.24, 0.34)) * np.sqrt(ball))
    density += shadow * (0.4 + 0.6 * lung)


def _device(density, thorax, rng):
    """A pacemaker with its lead, or a tube and electrodes: metal, far brighter than any tissue."""
    size = len(density)
    canvas = Image.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    side = int(rng.choice([-1, 1]))
    middle, lungs = thorax.middle, thorax.lungs
    thin = max(1, round(size / 512 * 2.5))
    tip = (middle + 0.10, lungs[1].dome - 0.05)
    if rng.random() < 0.6:
        px = middle + side * rng.uniform(0.24, 0.29)
        py = lungs[0].apex + rng.uniform(0.08, 0.13)
        pen.rounded_rectangle(
            [(px - 0.045) * size, (py - 0.035) * size, (px + 0.045) * size, (py + 0.035) * size],
            radius=0.025 * size,
            fill=230,
        )
        path = [(px, py), (middle + side * 0.10, lungs[0].apex + 0.03), (middle + side * 0.03, 0.3), tip]
    else:
        path = [
            (middle + 0.01, 0.0),
            (middle - 0.01, 0.25),
            (middle + 0.015, 0.6),
            (middle + 0.09, lungs[1].dome + 0.1),
        ]
        for _ in range(int(rng.integers(2, 5))):
            ex = middle + rng.choice([-1, 1]) * rng.uniform(0.15, 0.33)
            ey = rng.uniform(0.2, 0.8)
            radius = 0.013
            pen.ellipse(
                [(ex - radius) * size, (ey - radius) * size, (ex + radius) * size, (ey + radius) * size], fill=210
            )
    pen.line([(px * size, py * size) for px, py in _curve(np.array(path))], fill=190, width=thin)
    soft = canvas.filter(ImageFilter.GaussianBlur(size / 512 * 0.8))
    density += 0.7 * np.asarray(soft, np.float32) / 255


def _curve(points):
    """A smooth path along a cubic Bezier polygon of four points, [24, 2]."""
    t = np.linspace(0, 1, 24)[:, None]
    a, b, c, d = points
    return (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
