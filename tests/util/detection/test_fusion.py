"""Weighted boxes fusion and suppression, against hand-computed answers and the definitions written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from util.base.errors import UserError
from util.detection.fusion import build_merge, fuse_weighted, keep_strongest


def view(*rows):
    """Rows of (score, label, x1, y1, x2, y2), strongest first."""
    rows = sorted(rows, reverse=True)
    return {
        "scores": torch.tensor([r[0] for r in rows]),
        "labels": torch.tensor([r[1] for r in rows], dtype=torch.int64),
        "boxes": torch.tensor([r[2:] for r in rows]).reshape(-1, 4),
    }


def rows_of(found):
    columns = (found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist())
    return [(score, label, *box) for score, label, box in zip(*columns, strict=True)]


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def fused_by_the_paper(views, threshold):
    """Section 3 of the paper with lists, one box at a time."""
    boxes = [row for found in views for row in rows_of(found)]
    clusters, fused = [], []
    for row in sorted(boxes, key=lambda r: -r[0]):
        overlaps = [iou(row[2:], f[2:]) if f[1] == row[1] else -1 for f in fused]
        if overlaps and max(overlaps) > threshold:
            place = overlaps.index(max(overlaps))
            clusters[place].append(row)
        else:
            place = len(clusters)
            clusters.append([row])
            fused.append(row)
        members = clusters[place]
        total = sum(m[0] for m in members)
        corners = [sum(m[0] * m[k] for m in members) / total for k in range(2, 6)]
        fused[place] = (total / len(members), row[1], *corners)
    scaled = [(f[0] * min(len(c), len(views)) / len(views), *f[1:]) for f, c in zip(fused, clusters, strict=True)]
    return sorted(scaled, key=lambda r: -r[0])


numbers = st.integers(0, 12)
a_row = st.builds(
    lambda score, label, x, y, w, h: (score / 1000, label, float(x), float(y), float(x + w), float(y + h)),
    st.integers(1, 999),
    st.sampled_from([1, 2]),
    numbers,
    numbers,
    st.integers(1, 9),
    st.integers(1, 9),
)
some_views = st.lists(st.lists(a_row, max_size=6), min_size=1, max_size=4).filter(
    lambda views: len({r[0] for v in views for r in v}) == sum(map(len, views))  # equal scores have no order
)


@settings(max_examples=150, deadline=None)
@given(some_views)
def test_fusion_is_that_of_the_paper(rows):
    views = [view(*r) for r in rows]
    found, wanted = rows_of(fuse_weighted(views, 0.55)), fused_by_the_paper(views, 0.55)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-5, atol=1e-5)
    assert [r[0] for r in found] == sorted((r[0] for r in found), reverse=True)


def test_two_views_of_a_box_become_their_weighted_mean():
    views = [view((0.9, 1, 0.0, 0.0, 10.0, 10.0)), view((0.3, 1, 0.0, 0.0, 10.0, 14.0))]
    found = fuse_weighted(views, 0.55)
    np.testing.assert_allclose(rows_of(found), [(0.6, 1, 0, 0, 10, 11)], rtol=1e-6)


def test_what_one_of_two_views_sees_counts_half():
    views = [view((0.8, 1, 0.0, 0.0, 10.0, 10.0)), view()]
    assert rows_of(fuse_weighted(views, 0.55))[0][0] == pytest.approx(0.4)
    assert rows_of(keep_strongest(views, 0.55))[0][0] == pytest.approx(0.8)


def test_classes_are_merged_apart():
    views = [view((0.8, 1, 0.0, 0.0, 10.0, 10.0)), view((0.7, 2, 0.0, 0.0, 10.0, 10.0))]
    assert [r[1] for r in rows_of(fuse_weighted(views, 0.55))] == [1, 2]
    assert [r[1] for r in rows_of(keep_strongest(views, 0.55))] == [1, 2]


def test_suppression_keeps_the_strongest_as_it_is():
    views = [
        view((0.5, 1, 0.0, 0.0, 10.0, 10.0)),
        view((0.75, 1, 0.0, 0.0, 10.0, 11.0), (0.25, 1, 20.0, 20.0, 30.0, 30.0)),
    ]
    assert rows_of(keep_strongest(views, 0.55)) == [(0.75, 1, 0, 0, 10, 11), (0.25, 1, 20, 20, 30, 30)]


@pytest.mark.parametrize("method", ["wbf", "nms"])
def test_the_strongest_are_kept_and_nothing_merges_to_nothing(method):
    views = [view(*((0.1 * n, 1, 20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(1, 9))), view()]
    strongest = rows_of(build_merge(method, 0.55, 3)(views))
    assert [r[2] for r in strongest] == [160, 140, 120]
    empty = build_merge(method, 0.55, 3)([view(), view()])
    assert [list(column.shape) for column in empty.values()] == [[0], [0], [0, 4]]


def test_a_score_that_rounded_to_nothing_stays_finite():
    views = [view((0.0, 1, 0.0, 0.0, 10.0, 10.0)), view((0.0, 1, 0.0, 0.0, 10.0, 12.0))]
    np.testing.assert_allclose(rows_of(fuse_weighted(views, 0.55)), [(0, 1, 0, 0, 10, 11)])


@pytest.mark.parametrize(
    ("method", "iou"), [("NMS", 0.5), ("soft", 0.5), ("wbf", 0.0), ("nms", 1.0), ("wbf", float("nan"))]
)
def test_a_merge_that_there_is_not_is_refused(method, iou):
    with pytest.raises(UserError, match="choose wbf or nms, and an overlap between 0 and 1"):
        build_merge(method, iou, 10)


@pytest.mark.parametrize("method", ["nms", "wbf"])
def test_ids_beyond_the_precision_of_floats_are_different_classes(method):
    """torchvision's NMS moves boxes by a multiple of their label in single precision."""
    first, second = 2**62, 2**62 + 1
    views = [view((0.9, first, 0.0, 0.0, 10.0, 10.0)), view((0.8, second, 0.0, 0.0, 10.0, 10.0))]
    found = build_merge(method, 0.5, 10)(views)
    assert sorted(found["labels"].tolist()) == [first, second]
