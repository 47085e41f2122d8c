"""The phantom's lesions follow the real statistics, and its films show them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.phantom import PhantomCase, plan_phantom, render_case, sample_lesions
from datasets.phantom.statistics import ACTIVE, BOX_DISTRIBUTIONS, FRAME, LATENT, Lesion


@pytest.fixture(scope="module")
def lesions():
    rng = np.random.default_rng(11)
    return [sample_lesions(rng) for _ in range(4000)]


@given(seed=st.integers(0, 2**31 - 1), size=st.sampled_from([64, 192, 512]))
@settings(max_examples=15, deadline=None)
def test_boxes_lie_inside_the_image(seed, size):
    plan = plan_phantom(12, 4, seed, positive_fraction=1.0, size=size)
    for annotation in plan.documents["all_trainval"]["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert w > 0
        assert h > 0
        assert x + w <= size
        assert y + h <= size
        assert annotation["category_id"] in (ACTIVE, LATENT)


def test_default_shares_are_those_of_the_real_lists():
    names = plan_phantom(6600, 1800, seed=0).lists["TBX11K_train"]
    counts = {folder: sum(n.startswith(folder) for n in names) for folder in ("tb/", "health/", "sick/")}
    assert counts == {"tb/": 600, "health/": 3000, "sick/": 3000}


# -------------------------------------------------------------------------------- statistics


def test_image_types_and_counts_follow_the_real_ones(lesions):
    kinds = [{lesion.category for lesion in image} for image in lesions]
    shares = [kinds.count({ACTIVE}), kinds.count({LATENT}), kinds.count({ACTIVE, LATENT})]
    np.testing.assert_allclose(np.divide(shares, len(lesions)), [0.789, 0.174, 0.038], atol=0.02)
    counts = np.bincount([len(image) for image in lesions], minlength=5)[1:] / len(lesions)
    np.testing.assert_allclose(counts, np.array([417, 355, 24, 3]) / 799, atol=0.025)


@pytest.mark.parametrize(("category", "cy"), [(ACTIVE, (0.311, 0.104)), (LATENT, (0.293, 0.088))])
def test_sizes_and_places_follow_the_real_ones(lesions, category, cy):
    x, y, w, h = np.array([lesion.box for image in lesions for lesion in image if lesion.category == category]).T
    law = BOX_DISTRIBUTIONS[category]
    for side, (mean, deviation) in ((w, law.log_w), (h, law.log_h)):
        assert np.log(side).mean() == pytest.approx(mean, abs=0.09)
        assert np.log(side).std() == pytest.approx(deviation, abs=0.05)
    assert np.corrcoef(np.log(w), np.log(h))[0, 1] == pytest.approx(law.corr, abs=0.07)
    cx = x + w / 2
    assert (cx < 0.5).mean() == pytest.approx(law.left_share, abs=0.06)
    assert cx[cx < 0.5].mean() == pytest.approx(law.cx[0][0], abs=0.015)
    assert cx[cx > 0.5].mean() == pytest.approx(law.cx[1][0], abs=0.015)
    assert (y + h / 2).mean() == pytest.approx(cy[0], abs=0.015)
    assert (y + h / 2).std() == pytest.approx(cy[1], abs=0.02)


def test_pairs_face_each_other(lesions):
    pairs = np.array([[lesion.box for lesion in image] for image in lesions if len(image) == 2])
    cx, cy = pairs[..., 0] + pairs[..., 2] / 2, pairs[..., 1] + pairs[..., 3] / 2
    opposite = (cx[:, 0] < 0.5) != (cx[:, 1] < 0.5)
    assert opposite.mean() > 0.95
    assert np.median(np.abs(cy[opposite, 0] - cy[opposite, 1])) == pytest.approx(0.037, abs=0.01)
    areas = np.log(pairs[opposite, :, 2] * pairs[opposite, :, 3])
    assert np.median(np.abs(areas[:, 0] - areas[:, 1])) == pytest.approx(0.355, abs=0.08)


def test_lesions_of_one_image_do_not_touch_and_stay_in_the_frame(lesions):
    for image in lesions:
        for i, (x, y, w, h) in enumerate(lesion.box for lesion in image):
            assert FRAME[0] <= x <= x + w <= FRAME[2] + 1e-9
            assert FRAME[1] <= y <= y + h <= FRAME[3] + 1e-9
            for other in image[:i]:
                a, b, c, d = other.box
                assert x >= a + c or a >= x + w or y >= b + d or b >= y + h


# ------------------------------------------------------------------------------------ pixels


def without_exposure(monkeypatch):
    """Films as raw densities: exposure would spread a lesion's light over the whole image."""
    monkeypatch.setattr("datasets.phantom.render._develop", lambda density, _: density)


@pytest.mark.parametrize("category", [ACTIVE, LATENT])
def test_a_lesion_brightens_its_box_and_nothing_else(monkeypatch, category):
    without_exposure(monkeypatch)
    for i in range(6):
        box = (0.22 + 0.01 * i, 0.24, 0.2, 0.25)
        ill = PhantomCase(f"tb/{i}.png", 1, "tb", (Lesion(category, box),))
        monkeypatch.setattr("datasets.phantom.render.sample_lesions", lambda _, ill=ill: ill.lesions)
        added = render_case(ill, 256) - render_case(replace(ill, kind="health", lesions=()), 256)
        x0, y0, x1, y1 = (round(256 * v) for v in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
        inside = added[y0:y1, x0:x1]
        assert inside.mean() > 0.03
        assert inside.max() > 0.12
        outside = added.copy()
        outside[y0:y1, x0:x1] = 0
        assert np.abs(outside).max() < 1e-6
        assert (inside > 0.02).any(1)[[2, -3]].all(), "the lesion reaches the top and the bottom of its box"
        assert (inside > 0.02).any(0)[[2, -3]].all(), "the lesion reaches both sides of its box"


def test_lesions_are_brighter_on_the_film_than_the_same_place_without_them():
    gains = []
    for i in range(8):
        ill = PhantomCase(f"tb/{i}.png", 2, "tb", (Lesion(ACTIVE, (0.62, 0.25, 0.2, 0.22)),))
        x0, y0, x1, y1 = (round(256 * v) for v in (0.66, 0.30, 0.78, 0.43))
        mirrored = slice(256 - x1, 256 - x0)
        film = render_case(ill, 256) / 255
        gains.append(film[y0:y1, x0:x1].mean() - film[y0:y1, mirrored].mean())
    assert np.mean(gains) > 0.10
    assert np.min(gains) > 0.0


def test_active_and_latent_look_different(monkeypatch):
    without_exposure(monkeypatch)

    def fineness(category, i):
        ill = PhantomCase(f"tb/{i}.png", 1, "tb", (Lesion(category, (0.2, 0.25, 0.22, 0.25)),))
        monkeypatch.setattr("datasets.phantom.render.sample_lesions", lambda _: ill.lesions)
        added = render_case(ill, 256) - render_case(replace(ill, kind="health", lesions=()), 256)
        return np.abs(np.diff(added, axis=1)).sum() / added.sum()

    active, latent = ([fineness(c, i) for i in range(6)] for c in (ACTIVE, LATENT))
    assert max(active) < min(latent)


@pytest.mark.slow
def test_mean_brightness_does_not_tell_the_class():
    rng = np.random.default_rng(0)
    means = {"tb": [], "sick": [], "health": []}
    for kind, found in means.items():
        for i in range(60):
            ill = sample_lesions(rng) if kind == "tb" else ()
            found.append(render_case(PhantomCase(f"{kind}/{i}.png", 0, kind, ill), 64).mean() / 255)
    for kind in ("tb", "sick"):
        wins = np.subtract.outer(means[kind], means["health"]) > 0
        assert abs(wins.mean() - 0.5) < 0.12, f"area under the ROC curve of brightness for {kind}: {wins.mean():.2f}"
    assert 0.53 < np.mean(means["health"]) < 0.61


def test_contrast_is_that_of_real_films():
    deviations = [render_case(PhantomCase(f"health/{i}.png", 0, "health"), 64).std() / 255 for i in range(24)]
    assert np.mean(deviations) == pytest.approx(0.269, abs=0.03)
