import numpy as np
import pytest

from util.base.text import short_names
from util.metrics.tables import Detections, GroundTruth
from util.plots.contact_sheet import (
    AnnotatedImage,
    annotate_detections,
    choose_detections,
    choose_images,
    draw_sheet,
    find_matched,
)

A, B, C = (10, 10, 110, 110), (300, 300, 400, 400), (150, 20, 220, 90)


def truth_of(images, rows):
    boxes = np.array([box for _, box in rows], dtype=float).reshape(-1, 4)
    n = len(rows)
    return GroundTruth(
        images=tuple(images),
        image_id=np.array([i for i, _ in rows], dtype=np.int64),
        label=np.ones(n, dtype=np.int64),
        xyxy=boxes,
        area=np.ones(n),
        is_crowd=np.zeros(n, dtype=bool),
        names={1: "red"},
        sizes=dict.fromkeys(images, (512, 512)),
        files={i: f"{i}.png" for i in images},
    )


def found_of(images, rows):
    boxes = np.array([box for _, box, _ in rows], dtype=float).reshape(-1, 4)
    ids, scores = np.array([r[0] for r in rows], dtype=np.int64), np.array([r[2] for r in rows], dtype=float)
    return Detections(tuple(images), ids, np.ones(len(rows), dtype=np.int64), boxes, scores)


def test_a_box_is_hit_once_and_a_detection_hits_once():
    near_a = np.add(A, 5)

    def matched(boxes, detections):
        truth, found = truth_of([1], [(1, b) for b in boxes]), found_of([1], [(1, d, 0.5) for d in detections])
        return find_matched(truth, found, 0.5).tolist()

    assert matched([A, B], [A, near_a]) == [True, False]
    assert matched([A, near_a], [near_a]) == [False, True]
    assert matched([A], []) == [False]
    assert matched([], [A]) == []


def test_strong_detections_are_shown_and_the_best_of_an_image_without_a_strong_one():
    found = found_of([1, 2, 3], [(1, A, 0.2), (1, B, 0.9), (1, C, 0.5), (2, A, 0.01), (2, B, 0.02)])
    shown = choose_detections(found, 0.3)
    assert shown.image_id.tolist() == [1, 1, 2]
    assert shown.score.tolist() == [0.9, 0.5, 0.02]
    assert shown.images == (1, 2, 3)


def test_a_sheet_mixes_misses_hits_and_the_strongest_false_alarms():
    truth = truth_of(range(1, 9), [(1, A), (2, A), (3, A), (4, A)])
    found = found_of(range(1, 9), [(1, A, 0.9), (2, B, 0.8), (3, A, 0.7), (4, B, 0.3), (7, A, 0.6), (6, A, 0.4)])
    assert choose_images(truth, choose_detections(found, 0.3), num=6) == [2, 4, 1, 3, 7, 6]
    assert choose_images(truth, choose_detections(found, 0.3), num=3) == [2, 1, 7]


@pytest.mark.parametrize("boxes", [0, 1, 5, 8])
def test_a_sheet_is_full_whatever_kinds_of_images_there_are(boxes):
    truth = truth_of(range(1, 9), [(i, A) for i in range(1, boxes + 1)])
    chosen = choose_images(truth, found_of(range(1, 9), []), num=6)
    assert len(chosen) == len(set(chosen)) == 6
    assert len(choose_images(truth, found_of(range(1, 9), []), num=20)) == 8


def test_names_are_cut_to_their_first_word_only_where_that_tells_them_apart():
    tb = {1: "ActiveTuberculosis", 2: "ObsoletePulmonaryTuberculosis", 3: "PulmonaryTuberculosis"}
    assert short_names(tb) == {1: "Active", 2: "Obsolete", 3: "Pulmonary"}
    alike = {1: "PulmonaryNodule", 2: "PulmonaryMass"}
    assert short_names(alike) == alike
    assert short_names({1: "person", 2: "traffic light"}) == {1: "person", 2: "traffic light"}


def tile(image, num_truth=1, num_found=2):
    boxes = np.array([A, np.add(A, 8), (-40, 400, 600, 530)], dtype=float)
    truth, found = (boxes[:num_truth], ["red"] * num_truth), (boxes[:num_found], ["red"] * num_found)
    return AnnotatedImage(image, "caption", *truth, *found, np.linspace(0.9, 0.1, 3)[:num_found])


@pytest.mark.parametrize("shape", [(512, 512), (512, 512, 3), (300, 700)])
@pytest.mark.filterwarnings("error")
def test_every_text_lies_inside_its_image_and_no_two_overlap(tmp_path, shape):
    figure = draw_sheet([tile(np.zeros(shape, dtype=np.uint8), 2, 3)], "title")
    figure.savefig(tmp_path / "sheet.png")
    axes = figure.axes[0]
    frame = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [t.get_text() for t in axes.texts] == ["red", "red", "red 0.90", "red 0.50", "red 0.10"]
    assert all(frame.x0 - 2 <= b.x0 and b.x1 <= frame.x1 + 2 for b in boxes)
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_truth_and_detections_differ_in_more_than_colour():
    axes = draw_sheet([tile(np.zeros((512, 512), dtype=np.uint8))], "title").axes[0]
    solid, *dashed = [patch.get_linestyle() for patch in axes.patches]
    assert solid in ("-", "solid")
    assert all(style not in ("-", "solid") for style in dashed)


def test_an_unfinished_row_of_a_sheet_stays_blank():
    figure = draw_sheet([tile(np.zeros((64, 64), dtype=np.uint8))] * 5, "title")
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3


def test_a_sheet_without_images_is_refused():
    with pytest.raises(ValueError, match="no image"):
        draw_sheet([], "title")


def test_a_caption_counts_what_is_at_least_as_strong_as_the_threshold():
    truth = truth_of([1, 2], [(1, A), (1, B)])
    found = choose_detections(found_of([1, 2], [(1, A, 0.3), (2, C, 0.6)]), 0.5)
    pixels = np.zeros((512, 512), dtype=np.uint8)
    assert annotate_detections(pixels, truth, found, 1, 0.5).caption == "1.png\n2 GT, 0 predictions, 0 TP"
    assert annotate_detections(pixels, truth, found, 1, 0.3).caption == "1.png\n2 GT, 1 prediction, 1 TP"
    assert annotate_detections(pixels, truth, found, 2, 0.5).caption == "2.png\n0 GT, 1 prediction"


def test_a_weak_detection_finds_nothing_when_images_are_chosen():
    truth = truth_of([1, 2, 3], [(1, A), (2, A)])
    found = choose_detections(found_of([1, 2, 3], [(1, A, 0.3), (2, A, 0.6)]), 0.5)
    assert choose_images(truth, found, 3, 0.5) == [1, 2, 3]
    assert choose_images(truth, found, 2, 0.5)[0] == 2, "one with a box: the one that is found"


def test_weak_detections_have_dots_of_their_own_and_a_line_in_the_legend():
    weak = AnnotatedImage(**{**vars(tile(np.zeros((512, 512), dtype=np.uint8))), "threshold": 0.6})
    figure = draw_sheet([weak], "title")
    _, strong, dotted = (str(patch.get_linestyle()) for patch in figure.axes[0].patches)
    assert strong != dotted
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[2:] == ["best detection, below the score threshold"]
    assert len(draw_sheet([tile(np.zeros((64, 64)))], "title").legends[0].get_texts()) == 2
