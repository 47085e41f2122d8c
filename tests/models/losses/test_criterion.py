import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.class_losses import MAL, Focal
from models.losses.criterion import SetCriterion, build_weight_dict
from models.losses.events import EVENTS
from models.losses.matcher import HungarianMatcher
from models.outputs import Denoised, DINOOutput, Prediction
from tests.helpers.golden.model import figures, table, targets
from util.detection.boxes import cxcywh_to_xyxy, iou

GROUPS, SLOTS, QUERIES, CLASSES, LAYERS = 2, 3, 6, 4, 3
BASE = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
COEFFICIENTS = {"base": BASE, "interm": 1.0, "interm_boxes": True, "aux": True, "image": None}


def criterion(*, alpha=0.25, gamma=2.0, padding=True, denoising=True, layers=LAYERS, class_loss=None, **coefficients):
    weights = build_weight_dict(num_layers=layers, denoising=denoising, **{**COEFFICIENTS, **coefficients})
    matcher = HungarianMatcher(2.0, 5.0, 2.0, focal_alpha=alpha, focal_gamma=gamma)
    class_loss = class_loss or Focal(alpha, gamma)
    return SetCriterion(matcher, weights, class_loss=class_loss, dn_padding_loss=padding)


def prediction(num_images, queries, generator):
    logits = torch.randn(num_images, queries, CLASSES, generator=generator, dtype=torch.float64)
    boxes = torch.rand(num_images, queries, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    return Prediction(logits, boxes)


def outputs(num_images, *, seed=0, denoising=True):
    generator = torch.Generator().manual_seed(seed)
    made = [prediction(num_images, QUERIES, generator) for _ in range(LAYERS + 1)]
    denoised = [prediction(num_images, 2 * GROUPS * SLOTS, generator) for _ in range(LAYERS)]
    return DINOOutput(tuple(made[1:]), made[0], Denoised(tuple(denoised), GROUPS, SLOTS) if denoising else None)


def truth(*counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(0, CLASSES, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2,
        }
        for n in counts
    ]


def values(losses):
    return {name: value.item() for name, value in losses.items()}


def image_of(whole, i):
    """The outputs for one image."""

    def cut(p):
        return Prediction(p.logits[i : i + 1], p.boxes[i : i + 1])

    denoising = replace(whole.denoising, layers=tuple(map(cut, whole.denoising.layers)))
    return DINOOutput(tuple(map(cut, whole.layers)), cut(whole.proposals), denoising)


@pytest.mark.parametrize("alpha", [0.25, 0.75])
@pytest.mark.parametrize("batch", ["A", "B", "empty"])
def test_the_losses_of_one_prediction_are_the_official_ones(batch, alpha):
    gold = figures("components")
    made = Prediction(*(torch.from_numpy(gold[f"criterion/{name}"]) for name in ("logits", "boxes")))
    goal = targets("Z" if batch == "empty" else batch, torch.float32)
    num_boxes = max(1.0, sum(len(t["labels"]) for t in goal))
    found = criterion(alpha=alpha, layers=1)(DINOOutput((made,), made), goal, num_boxes)
    wanted = table("components")["criterion"][f"{batch}/alpha{alpha}"]
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert found[name].item() == pytest.approx(wanted[name], rel=2e-6, abs=1e-7)
        assert found[f"{name}_interm"].item() == pytest.approx(wanted[name], rel=2e-6, abs=1e-7)


def test_the_keys_are_the_same_on_every_step():
    kinds = [
        (outputs(2), truth(2, 3)),
        (outputs(2), truth(0, 3)),
        (outputs(2, denoising=False), truth(2, 3)),
        (outputs(2, denoising=False), truth(0, 0)),
    ]
    assert len({tuple(criterion()(o, t, 3.0)) for o, t in kinds}) == 1
    keys = set(criterion()(*kinds[0], 3.0))
    suffixes = ["", "_0", "_1", "_interm", "_dn", "_dn_0", "_dn_1"]
    assert keys == {"loss", *(f"loss_{term}{s}" for s in suffixes for term in ("ce", "bbox", "giou"))}


def test_training_and_evaluation_mode_say_the_same():
    made = criterion()
    assert values(made.train()(outputs(2), truth(1, 2), 3.0)) == values(made.eval()(outputs(2), truth(1, 2), 3.0))


def test_the_keys_are_the_official_ones_that_have_a_weight():
    official = {k for k in table("losses")["A/alpha0.25/train"]["losses"]}
    weights = build_weight_dict(num_layers=6, denoising=True, **COEFFICIENTS)
    assert weights.keys() == official
    assert len(weights) == 39


def test_without_denoising_its_terms_are_zero_and_without_boxes_box_terms_are_too():
    losses = values(criterion()(outputs(2, denoising=False), truth(2, 1), 3.0))
    assert all(value == 0 for name, value in losses.items() if "_dn" in name)
    losses = values(criterion()(outputs(2, denoising=False), truth(0, 0), 1.0))
    assert all(value == 0 for name, value in losses.items() if "bbox" in name or "giou" in name)
    assert losses["loss_ce"] > 0


def test_the_total_is_the_weighted_sum():
    made = criterion(base={"loss_ce": 0.5, "loss_bbox": 3.0, "loss_giou": 7.0}, interm=0.25)
    losses = values(made(outputs(2), truth(2, 1), 3.0))
    factor = {"ce": 0.5, "bbox": 3.0, "giou": 7.0}
    total = sum(
        factor[name.split("_")[1]] * value * (0.25 if name.endswith("_interm") else 1.0)
        for name, value in losses.items()
        if name != "loss"
    )
    assert losses["loss"] == pytest.approx(total, rel=1e-12)


def test_the_factor_of_the_proposals_acts_on_the_total_alone():
    full, half = (values(criterion(interm=x)(outputs(2), truth(2, 1), 3.0)) for x in (1.0, 0.5))
    interm = full["loss_ce_interm"] + 5 * full["loss_bbox_interm"] + 2 * full["loss_giou_interm"]
    assert half["loss"] == pytest.approx(full["loss"] - interm / 2, rel=1e-12)
    assert {k: v for k, v in half.items() if k != "loss"} == {k: v for k, v in full.items() if k != "loss"}


def test_the_box_terms_of_the_proposals_can_be_left_out_of_the_total():
    full, without = (values(criterion(interm_boxes=x)(outputs(2), truth(2, 1), 3.0)) for x in (True, False))
    boxes = 5 * full["loss_bbox_interm"] + 2 * full["loss_giou_interm"]
    assert boxes > 0
    assert without["loss"] == pytest.approx(full["loss"] - boxes, rel=1e-12)


def test_without_auxiliary_losses_only_the_answer_and_the_proposals_are_supervised():
    losses = values(criterion(aux=False)(outputs(2), truth(2, 1), 3.0))
    full = values(criterion()(outputs(2), truth(2, 1), 3.0))
    suffixes = ("", "_interm", "_dn")
    assert losses.keys() == {"loss", *(f"loss_{t}{s}" for t in ("ce", "bbox", "giou") for s in suffixes)}
    assert {k: losses[k] for k in losses if k != "loss"} == {k: full[k] for k in losses if k != "loss"}


def test_switching_denoising_off_takes_its_keys_away():
    assert not [k for k in criterion(denoising=False)(outputs(2, denoising=False), truth(1, 1), 2.0) if "_dn" in k]


def real_slots(counts):
    """[B, T]: slots that stand for a box."""
    filled = torch.tensor([[k < n for k in range(SLOTS)] for n in counts])
    return filled[:, None].expand(-1, 2 * GROUPS, -1).flatten(1)


@pytest.mark.parametrize("counts", [(3, 1), (3, 0), (3, 3)])
def test_without_padding_loss_the_denoising_class_term_is_the_sum_over_real_slots(counts):
    whole, goal = outputs(2), truth(*counts)
    logits = whole.denoising.layers[-1].logits
    wanted = torch.zeros_like(logits)
    for i, t in enumerate(goal):
        for group in range(GROUPS):
            for k, label in enumerate(t["labels"]):
                wanted[i, group * 2 * SLOTS + k, label] = 1
    for padding, rows in ((False, real_slots(counts)), (True, torch.ones(2, logits.shape[1], dtype=torch.bool))):
        found = criterion(padding=padding)(whole, goal, 4.0)["loss_ce_dn"].item()
        by_hand = Focal(0.25, 2.0)(logits[rows], wanted[rows]).sum().item() / (4.0 * GROUPS)
        assert found == pytest.approx(by_hand, rel=1e-12)


def test_a_positive_is_held_to_its_box_and_a_negative_is_background():
    whole, goal = outputs(1), truth(2)
    boxes = whole.denoising.layers[-1].boxes[0].view(GROUPS, 2, SLOTS, 4)
    wanted = sum((boxes[g, 0, k] - goal[0]["boxes"][k]).abs().sum() for g in range(GROUPS) for k in range(2))
    losses = criterion()(whole, goal, 2.0)
    assert losses["loss_bbox_dn"].item() == pytest.approx(wanted.item() / (2.0 * GROUPS), rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    counts=st.lists(st.integers(0, SLOTS), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    num_boxes=st.floats(1, 20),
    padding=st.booleans(),
    gamma=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_losses_of_images_add_up(counts, seed, num_boxes, padding, gamma):
    made = criterion(padding=padding, gamma=gamma)
    whole, goal = outputs(len(counts), seed=seed), truth(*counts, seed=seed)
    found = values(made(whole, goal, num_boxes))
    parts = [values(made(image_of(whole, i), goal[i : i + 1], num_boxes)) for i in range(len(counts))]
    assert found == pytest.approx({k: sum(p[k] for p in parts) for k in found}, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (3, 1)])
def test_examining_gives_the_losses_of_forward_bit_for_bit(counts):
    whole, goal = outputs(2), truth(*counts)
    losses, events = criterion().losses_and_events(whole, goal, 3.0)
    assert values(losses) == values(criterion()(whole, goal, 3.0))
    assert set(events) == {*EVENTS, "loss_with_boxes", "loss_without_boxes"}


@settings(deadline=None, max_examples=25)
@given(
    counts=st.lists(st.integers(0, SLOTS), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    num_boxes=st.floats(1, 20),
    padding=st.booleans(),
    alpha=st.floats(0, 1),
)
def test_the_loss_is_shared_out_among_images_as_if_each_were_alone(counts, seed, num_boxes, padding, alpha):
    made = criterion(padding=padding, alpha=alpha, base={**BASE, "loss_ce": 0.7}, interm=0.3)
    whole, goal = outputs(len(counts), seed=seed), truth(*counts, seed=seed)
    losses, events = made.losses_and_events(whole, goal, num_boxes)
    shares = values(events)
    total = losses["loss"].item() * num_boxes
    assert shares["loss_with_boxes"] + shares["loss_without_boxes"] == pytest.approx(total, rel=1e-9, abs=1e-12)
    alone = [made.losses_and_events(image_of(whole, i), goal[i : i + 1], num_boxes) for i in range(len(counts))]
    for name, wanted in (("loss_with_boxes", True), ("loss_without_boxes", False)):
        parts = [loss["loss"].item() for (loss, _), n in zip(alone, counts, strict=True) if bool(n) == wanted]
        assert shares[name] == pytest.approx(sum(parts) * num_boxes, rel=1e-9, abs=1e-9)
    assert shares == pytest.approx(
        {name: sum(events[name].item() for _, events in alone) for name in shares}, rel=1e-6, abs=1e-6
    )


def test_nothing_that_is_examined_holds_the_graph():
    whole = outputs(2)
    for layer in (*whole.layers, whole.proposals, *whole.denoising.layers):
        layer.logits.requires_grad_()
        layer.boxes.requires_grad_()
    losses, events = criterion().losses_and_events(whole, truth(2, 0), 2.0)
    assert losses["loss"].requires_grad
    assert not [name for name, value in events.items() if value.requires_grad]


def test_an_epoch_of_empty_images_has_no_loss_with_boxes():
    shares = values(criterion().losses_and_events(outputs(2), truth(0, 0), 1.0)[1])
    assert shares["loss_with_boxes"] == 0
    assert shares["loss_without_boxes"] > 0


def test_the_order_of_boxes_does_not_matter_to_the_matching_part():
    whole, goal = outputs(1, denoising=False), truth(3)
    turned = [{k: v.flip(0) for k, v in goal[0].items()}]
    assert values(criterion()(whole, turned, 3.0)) == pytest.approx(values(criterion()(whole, goal, 3.0)), rel=1e-12)


def test_more_boxes_than_queries_are_no_error():
    losses = criterion()(outputs(1, denoising=False), truth(QUERIES + 2), 8.0)
    assert all(torch.isfinite(v) for v in losses.values())


def test_a_label_beyond_the_classes_is_an_error_and_not_background():
    goal = truth(1)
    goal[0]["labels"][0] = CLASSES
    with pytest.raises((IndexError, RuntimeError)):
        criterion()(outputs(1, denoising=False), goal, 1.0)


def test_perfect_boxes_lose_almost_nothing():
    goal = truth(3)
    logits = torch.full((1, 3, CLASSES), -20.0, dtype=torch.float64)
    logits[0, torch.arange(3), goal[0]["labels"]] = 20.0
    made = Prediction(logits, goal[0]["boxes"][None])
    losses = values(criterion(layers=1)(DINOOutput((made,), made), goal, 3.0))
    assert losses["loss_bbox"] == 0
    assert losses["loss_ce"] < 1e-9
    assert losses["loss_giou"] < 1e-3  # the official epsilon


def test_gradients_reach_every_prediction():
    whole = outputs(2)
    leaves = [
        p for layer in (*whole.layers, whole.proposals, *whole.denoising.layers) for p in (layer.logits, layer.boxes)
    ]
    for leaf in leaves:
        leaf.requires_grad_()
    criterion()(whole, truth(2, 3), 5.0)["loss"].backward()
    assert all(torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0 for leaf in leaves)


def mal_by_hand(prediction, goal, pairs):
    """MAL with the exponent 1.5, summed; pairs of image, query and box."""
    p = prediction.logits.sigmoid()
    target, wanted = torch.zeros(2, *prediction.logits.shape, dtype=torch.float64)
    for image, query, box in pairs:
        ours, theirs = (cxcywh_to_xyxy(b) for b in (prediction.boxes[image, query], goal[image]["boxes"][box]))
        place = image, query, goal[image]["labels"][box]
        wanted[place], target[place] = 1, iou(ours, theirs) ** 1.5
    positive = -target * p.log() - (1 - target) * (1 - p).log()
    return torch.where(wanted > 0, positive, -(p**1.5) * (1 - p).log())


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_a_loss_that_wants_the_overlap_gets_that_of_the_matched_boxes_of_every_prediction(counts):
    whole, goal = outputs(2), truth(*counts)
    made = criterion(class_loss=MAL(1.5))
    losses = made(whole, goal, 2.0)
    for suffix, prediction in whole.matched():
        [assignment] = made.matcher([prediction], goal)
        pairs = zip(*(column.tolist() for column in assignment.columns), strict=True)
        by_hand = mal_by_hand(prediction, goal, pairs).sum().item() / 2.0
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("padding", [True, False])
def test_a_denoising_query_is_held_to_the_overlap_with_its_own_box(padding):
    counts = (3, 1)
    whole, goal = outputs(2), truth(*counts)
    losses = criterion(class_loss=MAL(1.5), padding=padding)(whole, goal, 2.0)
    pairs = [(i, g * 2 * SLOTS + k, k) for i, n in enumerate(counts) for g in range(GROUPS) for k in range(n)]
    counted = torch.ones(2, 2 * GROUPS * SLOTS, dtype=torch.bool) if padding else real_slots(counts)
    for suffix, prediction in whole.denoised():
        by_hand = mal_by_hand(prediction, goal, pairs)[counted].sum().item() / (2.0 * GROUPS)
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(by_hand, rel=1e-9)


def test_the_overlap_is_a_target_and_not_a_way_to_learn():
    whole, goal = outputs(2), truth(2, 1)
    logits, boxes = whole.last.logits.requires_grad_(), whole.last.boxes.requires_grad_()
    loss = criterion(class_loss=MAL(1.5))(whole, goal, 3.0)["loss_ce"]
    by_score, by_box = torch.autograd.grad(loss, (logits, boxes))
    assert by_score.abs().sum() > 0
    assert not by_box.any()


def test_the_answer_for_the_image_is_a_cross_entropy_over_the_boxes_of_the_step():
    whole, goal = replace(outputs(3), image_logits=torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)), truth(2, 0, 0)
    losses = values(criterion(image=0.5)(whole, goal, 4.0))
    by_hand = math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1))
    assert losses["loss_image"] == pytest.approx(by_hand / 4.0, rel=1e-12)
    without = values(criterion()(whole, goal, 4.0))
    assert losses["loss"] == pytest.approx(without["loss"] + 0.5 * by_hand / 4.0, rel=1e-12)
    assert {k: v for k, v in losses.items() if k not in ("loss", "loss_image")} == {
        k: v for k, v in without.items() if k != "loss"
    }


def test_the_answer_for_an_image_without_boxes_counts_as_loss_of_such_images():
    whole, goal = replace(outputs(2), image_logits=torch.tensor([1.0, 1.0], dtype=torch.float64)), truth(2, 0)
    plain, with_image = (criterion(**more).losses_and_events(whole, goal, 4.0)[1] for more in ({}, {"image": 1.0}))
    more = {k: with_image[k].item() - plain[k].item() for k in ("loss_with_boxes", "loss_without_boxes")}
    assert more["loss_without_boxes"] == pytest.approx(math.log(1 + math.exp(1)), rel=1e-9)
    assert more["loss_with_boxes"] == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-9)
