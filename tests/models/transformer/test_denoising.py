from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.transformer.denoising import Denoiser, attention_mask, num_groups, shift_boxes
from tests.helpers.device_waits import Waits
from tests.helpers.golden import fill_rule
from tests.helpers.golden.model import figures, table, targets
from tests.helpers.networks import tiny_dino
from util.detection.batch import Sample, collate

CPU = torch.device("cpu")
EDGE = [  # boxes that leave the image, fill it, or are thinner than the logit can say
    {"labels": torch.tensor([0, 3]), "boxes": torch.tensor([[0.02, 0.97, 0.04, 0.06], [0.5, 0.5, 1.0, 1.0]])},
    {"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.002, 0.9]])},
]


def denoiser(**changes):
    return Denoiser(
        **{
            "dn_number": 100,
            "label_noise_ratio": 0.5,
            "box_noise_scale": 0.4,
            "num_queries": 10,
            "category_ids": (0, 1, 2, 3),
            "use_padding": True,
            **changes,
        }
    )


def one_hot_table(rows=92):
    """A label table that shows which label was looked up."""
    return nn.Embedding.from_pretrained(torch.eye(rows))


def labels_of(content):
    """[B, T, C] of a one-hot table -> [B, T] labels, -1 for padding."""
    return torch.where(content.sum(-1) > 0, content.argmax(-1), -1)


@contextmanager
def closed_form_draws(*, has_label_draws):
    """The draws of the golden runs: the official code makes two for labels only if there is label noise."""
    call = 0 if has_label_draws else -2

    def uniform(shape):
        nonlocal call
        call += 1
        return torch.from_numpy(fill_rule.uniform(f"dn_call_{call}", int(np.prod(shape)))).reshape(shape)

    def rand(*shape, **_):
        return uniform(shape)

    def randint(low, high, shape, **_):
        return torch.floor(low + (high - low) * uniform(shape)).long()

    with mock.patch.multiple("models.transformer.denoising.torch", rand=rand, randint=randint):
        yield


def image(num_boxes, seed=None):
    generator = torch.Generator().manual_seed(num_boxes)
    target = {
        "labels": torch.randint(1, 4, (num_boxes,), generator=generator),
        "boxes": torch.rand(num_boxes, 4, generator=generator) * 0.4 + 0.2,
    }
    return target if seed is None else {**target, "noise_seed": torch.tensor(seed)}


@pytest.mark.parametrize(
    ("batch", "label_noise", "box_noise"),
    [("A", 0.5, 0.4), ("A", 0.0, 0.4), ("A", 0.5, 0.0), ("B", 0.5, 1.0), ("edge", 0.5, 0.4)],
)
def test_noise_is_the_official_one(batch, label_noise, box_noise):
    truth = EDGE if batch == "edge" else targets(batch, torch.float32)
    with closed_form_draws(has_label_draws=label_noise > 0):
        queries = denoiser(label_noise_ratio=label_noise, box_noise_scale=box_noise)(truth, one_hot_table(), None)
    gold = f"cdn_noise/{batch}/label{label_noise}_box{box_noise}"
    np.testing.assert_allclose(
        queries.box_logits, figures("components")[f"{gold}/input_query_bbox"], atol=2e-5
    )  # the logit of a box at the border has a slope of 1000
    labels = labels_of(queries.content).view(len(truth), -1, queries.slots)
    counts = [len(t["labels"]) for t in truth]
    in_official_order = torch.cat([labels[i, :, :n] for i, n in enumerate(counts)], dim=1).flatten()
    assert in_official_order.tolist() == figures("components")[f"{gold}/labels_fed_to_label_enc"].tolist()


@pytest.mark.parametrize(
    "case", table("components")["prepare_for_cdn"], ids=lambda c: f"{max(c['counts'])}_boxes_dn{c['dn_number_cfg']}"
)
def test_groups_and_sizes_are_the_official_ones(case):
    most = max(case["counts"])
    assert num_groups(case["dn_number_cfg"], most) == case["num_dn_group"]
    assert 2 * most * case["num_dn_group"] == case["pad_size"]
    if most == 0:
        return
    make = denoiser(dn_number=case["dn_number_cfg"], num_queries=900)
    queries = make([image(n) for n in case["counts"]], nn.Embedding(5, 8), None)
    assert list(queries.box_logits.shape) == case["input_query_bbox"]
    assert list(queries.content.shape[:2]) == case["input_query_label"][:2]
    assert list(queries.attn_mask.shape) == case["attn_mask"]
    assert queries.attn_mask.sum().item() == case["attn_mask_true"]


def test_the_attention_mask_is_the_official_one():
    gold = figures("components")
    assert np.array_equal(attention_mask(6, 2, 4, CPU), gold["cdn/attn_mask_counts2_1_dn3_nq4"])
    shape = gold["cdn/attn_mask_counts7_2_dn100_nq5.shape"]
    packed = gold["cdn/attn_mask_counts7_2_dn100_nq5.packed"]
    wanted = np.unpackbits(packed)[: shape.prod()].reshape(shape).astype(bool)
    assert np.array_equal(attention_mask(14, 7, 5, CPU), wanted)


def test_a_group_sees_itself_and_the_matching_queries_which_see_nothing_of_it():
    blocked = attention_mask(2, 1, 2, CPU)
    assert (~blocked).int().tolist() == [
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]


@given(dn_number=st.integers(1, 300), most=st.integers(1, 400))
def test_there_is_always_a_group(dn_number, most):
    assert num_groups(dn_number, most) >= 1


@pytest.mark.parametrize(("dn_number", "counts"), [(0, (2, 1)), (100, (0, 0)), (100, ())])
def test_there_is_nothing_to_denoise_without_boxes_or_with_denoising_off(dn_number, counts):
    assert denoiser(dn_number=dn_number)([image(n) for n in counts], one_hot_table(), 5) is None


def test_the_fullest_image_of_the_step_decides_on_the_groups_not_that_of_the_batch():
    make = denoiser()
    assert make([image(1)], one_hot_table(), 4).groups == num_groups(100, 4) == 25
    assert make([image(1)], one_hot_table(), None).groups == 100
    assert make([image(1)], one_hot_table(), 4).slots == 1


def test_a_seed_makes_the_noise_a_function_of_the_image_alone():
    make, labels = denoiser(), one_hot_table()
    alone = make([image(2, seed=7)], labels, 3)
    torch.manual_seed(99)
    among = make([image(3, seed=8), image(2, seed=7), image(0, seed=9)], labels, 3)
    repeats = 2 * alone.groups
    for name in ("content", "box_logits"):
        single = getattr(alone, name)[0].view(repeats, 2, -1)
        assert torch.equal(getattr(among, name)[1].view(repeats, 3, -1)[:, :2], single)
    assert not torch.equal(make([image(2, seed=6)], labels, 3).box_logits, alone.box_logits)


def test_seeded_noise_leaves_the_global_generator_alone_and_unseeded_noise_follows_it():
    make, labels = denoiser(), one_hot_table()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make([image(2, seed=7)], labels, None)
    assert torch.equal(torch.get_rng_state(), before)
    first = make([image(2)], labels, None).box_logits
    assert not torch.equal(make([image(2)], labels, None).box_logits, first)
    torch.set_rng_state(before)
    assert torch.equal(make([image(2)], labels, None).box_logits, first)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_only_categories_of_the_data_are_drawn_as_labels(seed):
    make = denoiser(category_ids=(1, 3), label_noise_ratio=2.0)
    drawn = make.draw_noise(20, 5, torch.Generator().manual_seed(seed)).labels
    assert set(drawn.unique().tolist()) == {1, 3}


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0.0), (0.5, 0.25), (2.0, 1.0)])
def test_half_the_ratio_is_the_share_of_replaced_labels(ratio, share):
    drawn = denoiser(label_noise_ratio=ratio).draw_noise(100, 100, torch.Generator().manual_seed(0)).labels
    # 10,000 draws: the standard deviation of the share is at most 0.005
    assert (drawn >= 0).float().mean().item() == pytest.approx(share, abs=0.02)


def test_positives_shift_by_less_than_half_a_side_and_negatives_by_more():
    shifts = denoiser().draw_noise(40, 50, torch.Generator().manual_seed(0)).shifts.abs()
    assert shifts[0::2].max() < 1 <= shifts[1::2].min()
    assert shifts.max() < 2


def test_shifted_corners_by_hand():
    # box from 0.4 to 0.6: half sides are 0.1, scale 0.5
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    shifts = torch.tensor([[[1.0, 0.0, -1.0, 0.0]], [[-2.0, -2.0, 2.0, 2.0]]])
    found = shift_boxes(boxes, shifts, 0.5)
    np.testing.assert_allclose(found[0, 0], [0.5, 0.5, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(found[1, 0], [0.5, 0.5, 0.4, 0.4], atol=1e-6)
    assert torch.allclose(shift_boxes(boxes, shifts, 0.0), boxes.expand(2, 1, 4))


def test_shifted_corners_stay_in_the_image():
    found = shift_boxes(torch.tensor([[0.1, 0.9, 0.2, 0.2]]), torch.full((1, 1, 4), -2.0), 1.0)
    np.testing.assert_allclose(found[0, 0], [0.0, 0.7, 0.0, 0.2], atol=1e-6)


@pytest.mark.parametrize("use_padding", [False, True])
def test_nobody_waits_for_the_device_when_noise_is_made(use_padding):
    """The draws are made on the host, from seeds that stay there; they only go to the device."""
    samples = [Sample(torch.zeros(1, 4, 4, dtype=torch.uint8), image(n, seed=n)) for n in (2, 0, 3)]
    targets = collate(samples).to(torch.device("meta")).targets
    table = nn.Embedding(92, 8, device="meta")
    with Waits() as waits:
        queries = denoiser(use_padding=use_padding)(targets, table, most_boxes=3)
    assert queries.content.device.type == queries.attn_mask.device.type == "meta"
    assert not waits.seen


def test_padding_slots_are_absent_only_if_padding_is_off():
    truth = [image(2), image(1)]
    assert denoiser()(truth, one_hot_table(), None).key_padding_mask is None
    queries = denoiser(dn_number=1, use_padding=False, num_queries=3)(truth, one_hot_table(), None)
    repeats = 2 * queries.groups
    assert queries.key_padding_mask[0].sum() == 0
    assert queries.key_padding_mask[1].tolist() == [False, True] * repeats + [False] * 3


def forward(model, images_of, counts, most_boxes):
    batch = tiny_dino.batch(images_of, counts)
    with torch.no_grad():
        return model.train()(batch.images, batch.mask, batch.targets, most_boxes)


@pytest.mark.parametrize("partner", [1, 2])
def test_without_padding_an_image_is_answered_the_same_whatever_shares_its_batch(partner):
    counts = (1, 4, 0)
    model, _, _ = tiny_dino.build()
    alone, among = forward(model, [0], counts, 4), forward(model, [0, partner], counts, 4)
    np.testing.assert_allclose(among.last.logits[:1], alone.last.logits, atol=1e-12)
    repeats = 2 * alone.denoising.groups
    for one, other in zip(among.denoising.layers, alone.denoising.layers, strict=True):
        filled = one.boxes[0].view(repeats, among.denoising.slots, 4)[:, :1]
        np.testing.assert_allclose(filled, other.boxes[0].view(repeats, 1, 4), atol=1e-12)


def test_the_official_padding_slots_change_the_denoising_answers_of_an_image():
    counts = (1, 4)
    model, _, _ = tiny_dino.build("dn_padding_loss=True")
    alone, among = forward(model, [0], counts, 4), forward(model, [0, 1], counts, 4)
    np.testing.assert_allclose(among.last.logits[:1], alone.last.logits, atol=1e-12)
    filled = among.denoising.layers[-1].boxes[0].view(2 * alone.denoising.groups, 4, 4)[:, :1]
    assert (filled - alone.denoising.layers[-1].boxes[0].view(-1, 1, 4)).abs().max() > 1e-6


def test_denoising_does_not_change_the_matching_part_and_evaluation_has_none():
    model, _, _ = tiny_dino.build()
    training = forward(model, [0, 1], (2, 1), 2)
    batch = tiny_dino.batch([0, 1], (2, 1))
    with torch.no_grad():
        evaluation = model.eval()(batch.images, batch.mask, batch.targets)
    assert evaluation.denoising is None
    np.testing.assert_allclose(training.last.logits, evaluation.last.logits, atol=1e-12)
    np.testing.assert_allclose(training.last.boxes, evaluation.last.boxes, atol=1e-12)
