"""What the last layer gets right, counted by hand, by slow loops, and image by image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.events import EVENTS, HIT_IOU, MIN_PREDICTED_SCORE, TOP_K, count_events
from models.losses.matcher import Assignment, HungarianMatcher, matched_targets
from models.outputs import Prediction

CLASSES = 3
UNLIKELY = -6.0


def logit(score):
    return torch.logit(torch.tensor(score)).item()


def target(labels, boxes=None):
    boxes = torch.tensor(boxes or []).reshape(-1, 4)
    return {"labels": torch.tensor(labels, dtype=torch.long), "boxes": boxes}


def prediction(queries, answers, num_images=1):
    """`answers`: (image, query) -> (scores per class, box); all other queries are sure of nothing, in a corner."""
    logits = torch.full((num_images, queries, CLASSES), UNLIKELY)
    boxes = torch.tensor([0.01, 0.01, 0.01, 0.01]).repeat(num_images, queries, 1)
    for (image, query), (scores, box) in answers.items():
        logits[image, query] = torch.tensor([logit(s) for s in scores])
        boxes[image, query] = torch.tensor(box)
    return Prediction(logits, boxes)


def assignment(*pairs):
    image, query, box = torch.tensor(pairs, dtype=torch.long).reshape(-1, 3).unbind(1)
    return Assignment(image, query, box)


def counted(made, targets, assigned):
    events = count_events(made, targets, assigned, matched_targets(targets, assigned)[0])
    return {name: value.item() for name, value in events.items()}


def test_two_images_by_hand():
    """Image 0 has a box of class 1 that is found and one of class 2 taken for class 0; image 1 has none."""
    left, right = [0.3, 0.5, 0.2, 0.2], [0.7, 0.5, 0.2, 0.2]
    made = prediction(
        4,
        {
            (0, 0): ((0.1, 0.6, 0.2), left),
            (0, 1): ((0.4, 0.2, 0.3), [0.7, 0.5, 0.2, 0.11]),  # covers 55 % of its box
            (0, 2): ((0.35, 0.1, 0.1), [0.5, 0.9, 0.1, 0.1]),
            (1, 3): ((0.05, 0.25, 0.1), right),
        },
        num_images=2,
    )
    targets = [target([1, 2], [left, right]), target([])]
    assert counted(made, targets, assignment((0, 0, 0), (0, 1, 1))) == pytest.approx(
        {
            "matched": 2,
            "wrong_class": 1,
            "found_top10": 2,
            "best_score_with_boxes": 0.6,
            "best_score_without_boxes": 0.25,
            "predicted": 3,  # .6, .4, .35; .25 is below the threshold
            "count_error": 1,  # three for two boxes, none for none
        }
    )


@pytest.mark.parametrize(("width", "found"), [(0.2, 1), (0.101, 1), (0.099, 0)])
def test_a_box_is_found_where_half_of_the_union_is_shared(width, found):
    box = [0.5, 0.5, 0.2, 0.2]
    made = prediction(12, {(0, 7): ((0.9, 0.1, 0.1), [0.5, 0.5, width, 0.2])})
    # of the wrong class, and matched by another query: that does not matter here
    assert counted(made, [target([2], [box])], assignment((0, 3, 0)))["found_top10"] == found


def test_only_the_ten_best_queries_are_looked_at():
    box = [0.5, 0.5, 0.2, 0.2]
    others = {(0, q): ((0.5 + 0.01 * q, 0.1, 0.1), [0.1, 0.1, 0.1, 0.1]) for q in range(TOP_K)}
    for score, found in ((0.4, 0), (0.55, 1)):
        made = prediction(15, {**others, (0, 12): ((0.1, score, 0.1), box)})
        assert counted(made, [target([1], [box])], assignment((0, 12, 0)))["found_top10"] == found


def test_one_query_finds_every_box_that_it_overlaps():
    made = prediction(5, {(0, 0): ((0.9, 0.1, 0.1), [0.5, 0.5, 0.2, 0.2])})
    targets = [target([0, 0], [[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2]])]
    assert counted(made, targets, assignment((0, 0, 0), (0, 1, 1)))["found_top10"] == 2


def test_a_batch_without_boxes_has_no_match_and_no_error():
    found = counted(prediction(4, {}, num_images=2), [target([]), target([])], assignment())
    assert found == pytest.approx({**dict.fromkeys(EVENTS, 0), "best_score_without_boxes": 2 / (1 + 2.718281828**6)})


def test_more_boxes_than_queries_leave_some_unmatched():
    boxes = [[0.5, 0.5, 0.2, 0.2]] * 3
    found = counted(prediction(2, {}), [target([0, 1, 2], boxes)], assignment((0, 0, 2), (0, 1, 0)))
    assert (found["matched"], found["count_error"]) == (2, 3)


def by_loops(made, targets, assigned):
    """The same from the definitions, a number at a time."""
    scores = made.logits.sigmoid()
    found = dict.fromkeys(EVENTS, 0.0)
    for image, query, box in zip(*(c.tolist() for c in (assigned.image, assigned.query, assigned.box)), strict=True):
        found["matched"] += 1
        found["wrong_class"] += scores[image, query].argmax().item() != targets[image]["labels"][box].item()
    for i, t in enumerate(targets):
        best = [max(row) for row in scores[i].tolist()]
        kind = "with" if len(t["labels"]) else "without"
        found[f"best_score_{kind}_boxes"] += max(best)
        shown = sum(score >= MIN_PREDICTED_SCORE for score in best)
        found["predicted"] += shown
        found["count_error"] += abs(shown - len(t["labels"]))
        top = sorted(range(len(best)), key=lambda q: -best[q])[:TOP_K]
        for true in t["boxes"].tolist():
            found["found_top10"] += any(overlap(made.boxes[i, q].tolist(), true) >= HIT_IOU for q in top)
    return found


def overlap(a, b):
    """Intersection over union of two cxcywh boxes."""
    sides = [
        min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    ]
    inter = max(0.0, sides[0]) * max(0.0, sides[1])
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(3, 30), st.integers(0, 10**6))
def test_events_are_those_of_slow_loops_and_add_up_over_images(counts, queries, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(len(counts), queries, CLASSES, generator=generator, dtype=torch.float64)
    boxes = 0.3 + 0.4 * torch.rand(len(counts), queries, 4, generator=generator, dtype=torch.float64)
    targets = [
        {
            "labels": torch.randint(0, CLASSES, (n,), generator=generator),
            "boxes": 0.3 + 0.4 * torch.rand(n, 4, generator=generator, dtype=torch.float64),
        }
        for n in counts
    ]
    made = Prediction(logits, boxes)
    matcher = HungarianMatcher(2.0, 5.0, 2.0, focal_alpha=0.25, focal_gamma=2.0)
    [assigned] = matcher([made], targets)
    found = counted(made, targets, assigned)
    assert found == pytest.approx(by_loops(made, targets, assigned), rel=1e-5)
    alone = []
    for i in range(len(counts)):
        one = Prediction(logits[i : i + 1], boxes[i : i + 1])
        [mine] = matcher([one], targets[i : i + 1])
        alone.append(counted(one, targets[i : i + 1], mine))
    assert found == pytest.approx({name: sum(part[name] for part in alone) for name in EVENTS}, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_events_are_single_precision_scalars_without_a_graph(dtype):
    made = prediction(12, {(0, 0): ((0.9, 0.1, 0.1), [0.5, 0.5, 0.2, 0.2])})
    made = Prediction(made.logits.to(dtype).requires_grad_(), made.boxes.to(dtype).requires_grad_())
    targets, assigned = [target([0], [[0.5, 0.5, 0.2, 0.2]])], assignment((0, 0, 0))
    events = count_events(made, targets, assigned, matched_targets(targets, assigned)[0])
    assert list(events) == list(EVENTS)
    assert {(v.dtype, v.shape, v.requires_grad) for v in events.values()} == {(torch.float32, torch.Size([]), False)}
