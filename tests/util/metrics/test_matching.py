import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.metric_tables import found_of, permuted, random_tables, truth_of
from util.metrics.coco.match import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE
from util.metrics.matching import as_one_class, deduplicate, match_boxes

SEEDS = st.integers(0, 2**32 - 1)
BOX, NEAR, FAR = (0, 0, 100, 100), (0, 0, 100, 80), (300, 300, 400, 400)


def outcomes(truth_rows, found_rows):
    return match_boxes(truth_of([1], truth_rows), found_of([1], found_rows)).outcome.tolist()


def test_the_stronger_of_two_takes_the_box():
    assert outcomes([(1, 1, BOX)], [(1, 1, BOX, 0.3), (1, 1, NEAR, 0.6)]) == [FALSE_POSITIVE, TRUE_POSITIVE]


def test_the_better_overlap_is_taken_where_two_boxes_are_free():
    pairs = match_boxes(truth_of([1], [(1, 1, NEAR), (1, 1, BOX)]), found_of([1], [(1, 1, BOX, 0.6), (1, 1, BOX, 0.5)]))
    assert pairs.box.tolist() == [1, 0]


def test_another_class_finds_nothing_until_classes_are_one():
    truth, found = truth_of([1], [(1, 1, BOX)]), found_of([1], [(1, 2, BOX, 0.6)])
    assert match_boxes(truth, found).outcome.tolist() == [FALSE_POSITIVE]
    assert match_boxes(as_one_class(truth), as_one_class(found)).outcome.tolist() == [TRUE_POSITIVE]


def test_half_an_overlap_is_enough():
    assert outcomes([(1, 1, BOX)], [(1, 1, (0, 0, 100, 50), 0.6)]) == [TRUE_POSITIVE]
    assert outcomes([(1, 1, BOX)], [(1, 1, (0, 0, 100, 49.9), 0.6)]) == [FALSE_POSITIVE]


def test_a_detection_inside_a_crowd_is_ignored_but_a_box_comes_first():
    rows = [(1, 1, BOX), (1, 1, (0, 0, 500, 500), True)]
    assert outcomes(rows, [(1, 1, BOX, 0.6), (1, 1, BOX, 0.5), (1, 1, FAR, 0.4)]) == [TRUE_POSITIVE, IGNORED, IGNORED]


def test_nothing_and_no_one():
    assert outcomes([], [(1, 1, BOX, 0.6)]) == [FALSE_POSITIVE]
    assert outcomes([(1, 1, BOX)], []) == []


def by_definition(truth, found, iou=0.5):
    """Detections one after the other, boxes one after the other."""
    free, outcome = set(range(len(truth))), {}
    keys = [(-found.score[d], *found.xyxy[d].tolist(), d) for d in range(len(found))]
    for *_, d in sorted(keys):
        (x1, y1, x2, y2), best, crowded = found.xyxy[d], (0.0, None), False
        for t in range(len(truth)):
            if (truth.image_id[t], truth.label[t]) != (found.image_id[d], found.label[d]):
                continue
            u1, v1, u2, v2 = truth.xyxy[t]
            inside = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            area = (x2 - x1) * (y2 - y1)
            if truth.is_crowd[t]:
                crowded |= inside / area >= iou
                continue
            overlap = inside / (area + (u2 - u1) * (v2 - v1) - inside)
            if t in free and overlap >= iou and overlap > best[0]:
                best = (overlap, t)
        outcome[d] = TRUE_POSITIVE if best[1] is not None else IGNORED if crowded else FALSE_POSITIVE
        free -= {best[1]}
    return [outcome[d] for d in range(len(found))]


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_pairs_are_those_of_the_definition(seed, ties):
    truth, found = random_tables(seed, ties)
    assert match_boxes(truth, found).outcome.tolist() == by_definition(truth, found)


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_order_of_rows_changes_no_outcome_even_with_equal_scores(seed, ties):
    truth, found = random_tables(seed, ties)
    other_truth, other = permuted(truth, found, seed)

    def what(found, outcome):
        return sorted(zip(found.image_id.tolist(), *found.xyxy.T.tolist(), found.score.tolist(), outcome, strict=True))

    ours, theirs = match_boxes(truth, found), match_boxes(other_truth, other)
    assert what(found, ours.outcome.tolist()) == what(other, theirs.outcome.tolist())


def test_a_box_under_two_classes_is_once_the_stronger_one():
    rows = [(1, 1, BOX, 0.3), (1, 2, BOX, 0.6), (1, 2, NEAR, 0.5), (2, 1, BOX, 0.2)]
    kept = deduplicate(as_one_class(found_of([1, 2], rows)))
    assert kept.score.tolist() == [0.6, 0.5, 0.2]


def test_boxes_that_differ_in_the_last_digit_are_two():
    almost = (0, 0, 100, np.nextafter(100, 0))
    assert len(deduplicate(found_of([1], [(1, 1, BOX, 0.3), (1, 1, almost, 0.6)]))) == 2


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_where_no_box_is_repeated_once_changes_nothing(seed):
    _, found = random_tables(seed)
    kept = deduplicate(found)
    np.testing.assert_array_equal(kept.xyxy, found.xyxy)
    np.testing.assert_array_equal(kept.score, found.score)
