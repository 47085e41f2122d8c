"""Render the X-ray of a case."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from datasets.phantom.anatomy import choose_thorax, render_chest
from datasets.phantom.fields import cloud
from datasets.phantom.lesions import add_finding, add_lesion, choose_findings
from datasets.phantom.statistics import Lesion, sample_lesions
from util.base.seed import derive_rng

Kind = Literal["tb", "sick", "health"]

# Where films come from: share, and mean and deviation of the mean brightness (502 real X-rays of three sources).
FILM_SOURCES = ((0.60, 0.610, 0.040), (0.25, 0.530, 0.030), (0.15, 0.445, 0.035))
CONTRAST = (0.269, 0.022)  # deviation of the pixels of one film: its mean and deviation over films


@dataclass(frozen=True)
class PhantomCase:
    """One patient. The same seed and name give the same patient, with or without disease."""

    name: str  # the file name below imgs/: it names the randomness, with the seed
    seed: int
    kind: Kind
    lesions: tuple[Lesion, ...] = ()


def render_case(case: PhantomCase, size: int) -> np.ndarray:
    """Grey values [size, size] uint8. Mean brightness is drawn from the film's source, never from the disease."""
    thorax_lesions = case.lesions or sample_lesions(_rng(case, "where lesions would be"))
    thorax = choose_thorax(_rng(case, "thorax"), thorax_lesions)
    ill = _rng(case, "disease")
    findings = choose_findings(ill) if case.kind == "sick" else []
    if "heart" in findings:
        thorax = replace(thorax, heart=thorax.heart * ill.uniform(1.4, 1.65))
    density, lung = render_chest(thorax, _rng(case, "chest"), size)
    for lesion in case.lesions:
        add_lesion(density, lung, lesion, ill)
    for finding in findings:
        add_finding(density, lung, finding, thorax, ill)
    return _develop(density, _rng(case, "film"))


def _rng(case, purpose):
    return derive_rng(case.seed, case.name, purpose)


def _develop(density, rng):
    """The film: shading, local contrast, a source's brightness and tone curve, grain, perhaps a marker."""
    size = len(density)
    shares = np.array([s[0] for s in FILM_SOURCES])
    _, centre, spread = FILM_SOURCES[rng.choice(len(FILM_SOURCES), p=shares)]
    mean = rng.normal(centre, spread)
    deviation = rng.normal(*CONTRAST)
    film = np.clip(density / 1.2, 0, 1.15) ** np.float32(rng.uniform(0.85, 1.2))
    film += rng.uniform(0.1, 0.4) * (film - _blur(film, 24))
    film *= 1 + 0.02 * cloud(rng, size, 2)
    film = _expose(film, mean, deviation)
    grain = rng.standard_normal((size, size), np.float32)
    grain = grain + 0.6 * (np.roll(grain, 1, 0) + np.roll(grain, 1, 1))
    film += rng.uniform(0.004, 0.012) * grain
    if rng.random() < 0.5:
        _mark(film, rng)
    return (film.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _blur(field, cells):
    size = len(field)
    image = Image.fromarray(field)
    small = image.resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def _expose(film, mean, deviation):
    """Gain and offset that give the clipped film its mean and, roughly, its deviation."""
    sample = film[:: max(1, len(film) // 64), :: max(1, len(film) // 64)]
    gain = 1.0
    offset = 0.0
    for _ in range(6):
        shown = np.clip(gain * sample + offset, 0, 1)
        gain *= float(np.clip(deviation / shown.std(), 0.7, 1.4))
        offset += mean - float(np.clip(gain * sample + offset, 0, 1).mean())
    for _ in range(4):
        offset += mean - float(np.clip(gain * sample + offset, 0, 1).mean())
    return np.clip(gain * film + offset, 0, 1)


def _mark(film, rng):
    """A lead letter in an upper corner: R on the viewer's left or L on the right."""
    size = len(film)
    letters = {
        "R": [(0, 1), (0, 0), (0.5, 0), (0.6, 0.22), (0.5, 0.45), (0, 0.45), (0.3, 0.45), (0.6, 1)],
        "L": [(0, 0), (0, 1), (0.55, 1)],
    }
    letter = str(rng.choice(list(letters)))
    scale = rng.uniform(0.022, 0.035)
    x = rng.uniform(0.04, 0.14) if letter == "R" else rng.uniform(0.84, 0.93)
    y = rng.uniform(0.02, 0.12)
    canvas = Image.new("L", (size, size))
    path = [((x + scale * u) * size, (y + scale * v) * size) for u, v in letters[letter]]
    ImageDraw.Draw(canvas).line(path, fill=255, width=max(1, round(size / 512 * 3)))
    np.maximum(film, 0.96 * np.asarray(canvas, np.float32) / 255, out=film)
