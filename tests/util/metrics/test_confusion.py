from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.metric_tables import found_of, permuted, random_tables, truth_of
from util.metrics.coco.ap import coco_ap
from util.metrics.confusion import BACKGROUND, confusion
from util.metrics.matching import as_one_class, deduplicate

BOX, FAR, THIRD = (0, 0, 100, 100), (300, 300, 400, 400), (200, 0, 260, 60)


def test_each_box_and_each_detection_is_counted_once():
    truth = truth_of([1, 2], [(1, 1, BOX), (1, 2, FAR), (1, 2, THIRD)])
    rows = [(1, 1, BOX, 0.9), (1, 1, FAR, 0.8), (2, 2, BOX, 0.7), (1, 2, THIRD, 0.1)]
    assert confusion(truth, found_of([1, 2], rows), 0.5) == {
        "red": {"red": 1, "green": 0, BACKGROUND: 0},
        "green": {"red": 1, "green": 0, BACKGROUND: 1},
        BACKGROUND: {"red": 0, "green": 1, BACKGROUND: 0},
    }


def test_of_one_box_under_two_classes_the_stronger_speaks_and_the_lower_label_among_equals():
    truth = truth_of([1], [(1, 1, BOX)])
    stronger = confusion(truth, found_of([1], [(1, 1, BOX, 0.6), (1, 2, BOX, 0.7)]), 0.5)
    assert stronger["red"] == {"red": 0, "green": 1, BACKGROUND: 0}
    for rows in ([(1, 2, BOX, 0.6), (1, 1, BOX, 0.6)], [(1, 1, BOX, 0.6), (1, 2, BOX, 0.6)]):
        assert confusion(truth, found_of([1], rows), 0.5) == {
            "red": {"red": 1, BACKGROUND: 0},
            BACKGROUND: {"red": 0, BACKGROUND: 0},
        }


def test_a_category_called_background_or_with_a_slash_has_keys_of_its_own():
    truth = replace(truth_of([1], [(1, 1, BOX), (1, 2, FAR), (1, 3, THIRD)]), names={1: "background", 2: "a/b", 3: ""})
    found = found_of([1], [(1, 1, BOX, 0.9), (1, 2, FAR, 0.9)])
    keys = ["background (1)", "a%2Fb", "(3)", BACKGROUND]
    counts = confusion(truth, found, 0.5)
    assert list(counts) == keys
    assert counts["background (1)"] == dict(zip(keys, (1, 0, 0, 0), strict=True))
    assert counts["(3)"] == dict(zip(keys, (0, 0, 0, 1), strict=True))
    assert coco_ap(truth, found)["AP50"] == pytest.approx(2 / 3)


@given(st.lists(st.text(alphabet="aA /%2F()\n", max_size=4), max_size=6))
def test_the_keys_of_categories_are_distinct_and_those_of_ordinary_names_are_the_names(names):
    truth = replace(truth_of([1], []), names={k: name for k, name in enumerate([*names, "red", "Red"])})
    keys = truth.category_keys
    assert len({*keys.values(), BACKGROUND}) == len(keys) + 1
    assert all(key.strip() and "/" not in key for key in keys.values())
    assert [keys[k] for k in range(len(names), len(keys))] == ["red", "Red"]


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_rows_add_up_to_boxes_and_columns_to_detections(seed, ties):
    truth, found = random_tables(seed, ties)
    table = confusion(truth, found, 0.4)
    boxes = sum(sum(row.values()) for true, row in table.items() if true != BACKGROUND)
    assert boxes == int((~truth.is_crowd).sum())
    said = sum(n for row in table.values() for name, n in row.items() if name != BACKGROUND)
    speaking = len(deduplicate(as_one_class(found_of(found.images, [r for r in rows(found) if r[3] >= 0.4]))))
    assert said <= speaking
    if not truth.is_crowd.any():
        assert said == speaking
    assert confusion(*permuted(truth, found, seed), 0.4) == table


def rows(found):
    return list(
        zip(found.image_id.tolist(), found.label.tolist(), found.xyxy.tolist(), found.score.tolist(), strict=True)
    )
