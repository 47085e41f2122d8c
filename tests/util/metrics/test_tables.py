import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.metrics.tables import Detections, GroundTruth, columns_of

IMAGES = (3, 1, 7, 5)


def detections(image_id, label, images=IMAGES):
    n = len(image_id)
    xyxy = np.arange(4.0 * n).reshape(n, 4)
    ids, labels = np.array(image_id, dtype=np.int64), np.array(label, dtype=np.int64)
    return Detections(images, ids, labels, xyxy, np.linspace(0.1, 0.9, n))


def assert_same(a, b):
    assert a.images == b.images
    for name in columns_of(type(a)):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


rows = st.lists(st.tuples(st.sampled_from(IMAGES), st.integers(1, 4)), max_size=12)
tables = rows.map(lambda pairs: detections([i for i, _ in pairs], [k for _, k in pairs]))
choices = st.sets(st.integers(1, 8))


@given(tables, choices, choices)
def test_choosing_images_twice_is_choosing_those_in_both(table, a, b):
    assert_same(table.on(a).on(b), table.on(a & b))


@given(tables)
def test_the_view_of_everything_is_the_table(table):
    assert_same(table.on(IMAGES), table)


def test_a_view_keeps_images_without_a_box():
    table = detections([3], [1]).on([3, 7])
    assert table.images == (3, 7)
    assert len(table) == 1


def test_a_view_keeps_every_column_in_step():
    table = detections([3, 1, 3, 7], [1, 2, 1, 3]).on([3, 7])
    assert table.image_id.tolist() == [3, 3, 7]
    assert table.label.tolist() == [1, 1, 3]
    assert table.xyxy[:, 0].tolist() == [0, 8, 12]
    np.testing.assert_allclose(table.score, np.linspace(0.1, 0.9, 4)[[0, 2, 3]])


def test_a_view_of_the_truth_keeps_names_sizes_and_files():
    truth = GroundTruth(
        images=(1, 2),
        image_id=np.array([1, 2]),
        label=np.array([1, 1]),
        xyxy=np.zeros((2, 4)),
        area=np.array([5.0, 6.0]),
        is_crowd=np.array([False, True]),
        names={1: "cat"},
        sizes={1: (4, 4), 2: (4, 4)},
        files={1: "a.png", 2: "b.png"},
    )
    view = truth.on([2])
    assert view.area.tolist() == [6.0]
    assert view.is_crowd.tolist() == [True]
    assert (view.names, view.sizes, view.files) == (truth.names, truth.sizes, truth.files)


def test_a_box_on_an_unlisted_image_is_refused():
    with pytest.raises(ValueError, match=r"not listed: \[9\]"):
        detections([9], [1])


def test_an_image_listed_twice_is_refused():
    with pytest.raises(ValueError, match=r"more than once: \[3\]"):
        detections([], [], images=(3, 1, 3))


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="unequal length"):
        Detections((1,), np.array([1]), np.array([1, 2]), np.zeros((1, 4)), np.array([0.5]))


def test_boxes_without_four_corners_are_refused():
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        Detections((1,), np.array([1]), np.array([1]), np.zeros((1, 5)), np.array([0.5]))
