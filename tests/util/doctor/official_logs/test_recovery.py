import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from util.doctor.official_logs import recovery
from util.doctor.official_logs.console import RawEpoch
from util.runlog.class_skill import FocalSettings, best_constant_loss


@pytest.mark.parametrize(
    ("largest", "queries"), [(299.87, 300), (300.0, 300), (892.6, 900), (3.5, None), (150.0, None)]
)
def test_the_number_of_queries_is_the_round_one_just_above(largest, queries):
    assert recovery.guess_num_queries(largest) == queries


def test_the_largest_cardinality_error_counts_the_boxes():
    assert recovery.boxes_per_image(300, [296.0, 299.871, 299.87]) == pytest.approx(0.129)
    assert recovery.boxes_per_image(300, [300.0, 300.0]) == 0.0


def test_cardinality_errors_that_disagree_count_nothing():
    assert recovery.boxes_per_image(300, [296.0, 299.87]) is None
    assert recovery.boxes_per_image(300, [80.0, 80.0]) is None
    assert recovery.boxes_per_image(300, [301.0, 301.0]) is None
    assert recovery.boxes_per_image(300, []) is None


def test_the_share_of_steps_with_boxes_by_hand():
    # 1 of 10 images has boxes, 1.5 each: 200 denoising queries less 1.5 boxes on it, 0 on the others
    assert recovery.share_of_steps((200 - 1.5) / 10, 0.15, 100, 92.0) == pytest.approx(0.1)
    assert recovery.share_of_steps(0.0, 0.0, 100, 100.0) == 0.0


@pytest.mark.parametrize(
    ("error", "boxes", "dn_number", "class_error"),
    [
        (19.85, 0.15, 50, 85.0),  # a fifth with boxes: less than a box each
        (19.85, 0.15, 100, 80.0),  # nine tenths empty would make the class error 90 at least
        (19.85, 0.15, 20, 92.0),  # groups do not depend on the boxes
        (300.0, 5.0, 100, 92.0),
        (0.0, 0.15, 100, 92.0),  # trained without denoising
    ],
)
def test_an_implausible_share_is_none(error, boxes, dn_number, class_error):
    assert recovery.share_of_steps(error, boxes, dn_number, class_error) is None


def test_steps_of_several_images_are_seldom_empty():
    assert recovery.share_of_images(1 - 0.9**4, 4) == pytest.approx(0.1)
    assert recovery.share_of_steps(200 * (1 - 0.9**4) - 0.15, 0.15, 100, 70.0, 4) == pytest.approx(1 - 0.9**4)


@given(st.floats(0.01, 1.0), st.floats(0, 100))
def test_the_class_error_of_steps_with_boxes_comes_back(share, error):
    logged = 100 * (1 - share) + share * error
    assert recovery.class_error_with_boxes(logged, share) == pytest.approx(error, abs=1e-6)


def test_a_class_error_below_that_of_the_empty_steps_is_none_wrong():
    assert recovery.class_error_with_boxes(89.9, 0.1) == 0.0
    assert recovery.class_error_with_boxes(100.0, 0.0) is None


def test_test_images_hold_as_many_boxes_each_as_training_images():
    assert recovery.share_of_test_images(0.15, 1.5, 92.0) == pytest.approx(0.1)
    assert recovery.share_of_test_images(0.15, 1.5, 80.0) is None
    assert recovery.share_of_test_images(None, 1.5, 92.0) is None


def test_many_classes_are_taken_for_uneven_ones():
    assert recovery.class_mix(4) == recovery.class_mix(None) == (0.8, 0.2)
    mix = recovery.class_mix(91)
    assert (len(mix), sum(mix)) == (90, pytest.approx(1.0))
    assert mix[0] == pytest.approx(9 * mix[8])


def test_the_constant_of_single_images_by_hand():
    focal = FocalSettings(0.25, 2.0, 300)
    # one image in ten has 2 boxes, and its loss is divided by 2: positives 0.1, slots 0.9 * 300 + 0.1 * 300 / 2
    by_hand = best_constant_loss([0.08, 0.02], 285.0, focal)
    assert recovery.constant_loss(0.1, 2.0, focal, (0.8, 0.2)) == pytest.approx(by_hand, rel=1e-6)


def test_the_constant_of_two_gpus_by_hand():
    focal = FocalSettings(0.25, 2.0, 300)
    # 1 image on each; 0, 1 or 2 of them with 4 boxes (.25, .5, .25): 0, 2 or 4 boxes per GPU
    by_hand = best_constant_loss([0.75], 300 * (0.25 + 0.5 / 2 + 0.25 / 4), focal)
    assert recovery.constant_loss(0.5, 4.0, focal, (1.0,), 1, 2) == pytest.approx(by_hand, rel=1e-6)


@given(st.integers(1, 99), st.integers(0, 200), st.floats(0, 60), st.sampled_from([300, 900]))
def test_the_official_meters_give_back_the_images_they_saw(ones, twos, error, queries):
    images = 300
    assume(ones + twos <= images)
    share, boxes = (ones + twos) / images, (ones + 2 * twos) / images
    values = {
        "train_class_error": 100 * (1 - share) + error * share,
        "train_cardinality_error_unscaled": queries - boxes,
        "train_cardinality_error_0_unscaled": queries - boxes,
        "train_cardinality_error_dn_unscaled": (ones * (200 - 1) + twos * (200 - 2)) / images,
    }
    recovered = recovery.recover([RawEpoch(0, values)], {})
    assert recovered.num_queries == queries
    assert recovered.boxes_per_image == pytest.approx(boxes)
    assert recovered.share_of_images == pytest.approx(share)
    assert recovered.class_error(values["train_class_error"]) == pytest.approx(error, abs=1e-6)


def test_an_epoch_that_was_cut_off_does_not_count_beside_a_whole_one():
    whole = {"train_cardinality_error_unscaled": 299.8, "train_cardinality_error_0_unscaled": 299.8}
    cut = {"train_cardinality_error_unscaled": 300.0, "train_cardinality_error_0_unscaled": 300.0}
    epochs = [RawEpoch(0, whole), RawEpoch(1, cut, is_whole=False)]
    assert recovery.recover(epochs, {}).boxes_per_image == pytest.approx(0.2)
    assert recovery.recover(epochs[1:], {}).boxes_per_image == 0.0


def test_a_gamma_that_the_official_code_does_not_read_is_not_taken():
    recovered = recovery.recover([RawEpoch(0)], {"focal_gamma": 3.0})
    assert recovered.settings["focal_gamma"] == 2.0


def test_crowded_images_are_not_taken_for_empty_ones():
    # 7 boxes each, 190 denoising queries instead of 200: 5 % of the steps seem empty, and 22 % of the images would
    values = {"train_cardinality_error_unscaled": 893.0, "train_cardinality_error_dn_unscaled": 190.0 - 7.0}
    recovered = recovery.recover([RawEpoch(0, values | {"train_class_error": 20.0})], {"batch_size": 2})
    assert recovered.share_of_images == recovered.share_of_steps == pytest.approx(0.95)
