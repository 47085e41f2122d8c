"""A contact sheet of example X-rays."""

import numpy as np
from PIL import Image, ImageDraw

from datasets.phantom.plan import check_seed
from datasets.phantom.render import PhantomCase, render_case
from datasets.phantom.statistics import ACTIVE, LATENT, Lesion, sample_lesions
from util.base.seed import derive_rng

ROWS = 2
EXAMPLE_SIDE = 204  # pixels of one example
LESION_COLOURS = {ACTIVE: (255, 90, 60), LATENT: (70, 170, 255)}


def draw_example_sheet(seed: int) -> Image.Image:
    """Columns of active TB, latent TB, sick and healthy; below each TB image with boxes the same one without."""
    check_seed(seed)
    sheet = Image.new("RGB", (4 * EXAMPLE_SIDE, 2 * ROWS * EXAMPLE_SIDE))
    for row in range(ROWS):
        for column, (name, category) in enumerate((("active", ACTIVE), ("latent", LATENT))):
            lesions = _lesions_of(category, seed, row)
            plain = _example(PhantomCase(f"{name}{row}", seed, "tb", lesions))
            sheet.paste(plain, (column * EXAMPLE_SIDE, (2 * row + 1) * EXAMPLE_SIDE))
            sheet.paste(_with_boxes(plain, lesions), (column * EXAMPLE_SIDE, 2 * row * EXAMPLE_SIDE))
        for half in (0, 1):
            top = (2 * row + half) * EXAMPLE_SIDE
            sheet.paste(_example(PhantomCase(f"sick{2 * row + half}", seed, "sick")), (2 * EXAMPLE_SIDE, top))
            sheet.paste(_example(PhantomCase(f"health{2 * row + half}", seed, "health")), (3 * EXAMPLE_SIDE, top))
    return sheet


def _lesions_of(category: int, seed: int, row: int) -> tuple[Lesion, ...]:
    """Lesions of one category only."""
    rng = derive_rng(seed, "sheet", category, row)
    while True:
        lesions = sample_lesions(rng)
        if {lesion.category for lesion in lesions} == {category}:
            return lesions


def _example(case: PhantomCase) -> Image.Image:
    """The case rendered at 512 px and reduced."""
    inner = (EXAMPLE_SIDE - 2, EXAMPLE_SIDE - 2)
    grey = Image.fromarray(render_case(case, 512)).resize(inner, Image.Resampling.LANCZOS)
    return Image.fromarray(np.repeat(np.asarray(grey)[..., None], 3, axis=2))


def _with_boxes(image: Image.Image, lesions: tuple[Lesion, ...]) -> Image.Image:
    """A copy with every lesion's box drawn."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    for lesion in lesions:
        x, y, w, h = (side * image.width for side in lesion.box)
        pen.rectangle((x, y, x + w, y + h), outline=LESION_COLOURS[lesion.category], width=2)
    return copy
