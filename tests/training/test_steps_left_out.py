"""A step whose loss or gradient is not finite is not taken, and training can go on."""

from dataclasses import replace

import pytest
import torch

from tests.helpers.networks import tiny_dino
from tests.helpers.networks.toy import Plus, SumOverBoxes, Toy, batch_of, flat, is_finite, steps, toy_learner, train
from util.training.denominator import Denominator


class Steep(SumOverBoxes):
    """A finite loss whose gradient is infinite: that of the square root at zero."""

    def forward(self, outputs, targets, num_boxes):
        loss = super().forward(outputs, targets, num_boxes)["loss"]
        return {"loss": loss + (outputs - outputs.detach()).sqrt().sum()}


def bad_image(value):
    batch = batch_of([1, 2])
    batch.images[1, 0, 0] = value
    return batch


NOT_FINITE = {  # a criterion, and a batch that it meets among good ones
    "an image that is not a number": (SumOverBoxes(), bad_image(torch.nan)),
    "an infinite pixel": (SumOverBoxes(), bad_image(torch.inf)),
    "an infinite loss with a finite gradient": (Plus(torch.inf), batch_of([1, 2])),
    "a negative infinite loss with a finite gradient": (Plus(-torch.inf), batch_of([1, 2])),
    "a loss that is not a number with a finite gradient": (Plus(torch.nan), batch_of([1, 2])),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("case", NOT_FINITE)
def test_a_step_with_a_loss_that_is_not_finite_is_not_taken_and_the_next_one_is(case, place):
    criterion, bad = NOT_FINITE[case]
    model, seen = Toy(), [flat(Toy())]
    learner = replace(toy_learner(model), criterion=criterion)
    batches = [batch_of([1])] * 2
    batches.insert(place, bad)

    def after(step):
        assert step.is_taken == is_finite(step) == bool(torch.isfinite(step.grad_norm))
        assert all(p.grad is None for p in model.parameters())
        seen.append(flat(model))

    train(learner, [*batches, *[batch_of([1])] * 3], 3, after=after)
    assert torch.equal(seen[1], seen[0])
    assert not torch.equal(seen[2], seen[1])
    assert seen[2].isfinite().all()


def test_a_step_with_a_gradient_that_is_not_finite_is_not_taken():
    model = Toy()
    start = flat(model)
    (step,) = steps(replace(toy_learner(model), criterion=Steep()), [batch_of([1])])
    assert is_finite(step)
    assert not step.is_taken
    assert not step.grad_norm.isfinite()
    assert torch.equal(flat(model), start)


def test_the_average_of_adam_knows_nothing_of_a_step_that_was_not_taken():
    one, other = Toy(), Toy()
    for model, batches in (
        (one, [batch_of([1]), bad_image(torch.nan), batch_of([3])]),
        (other, [batch_of([1]), batch_of([3])]),
    ):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        train(replace(toy_learner(model), optimizer=optimizer), batches, 1)
    assert torch.equal(flat(one), flat(other))


def test_the_average_of_boxes_knows_nothing_of_a_step_that_was_not_taken():
    learner = replace(toy_learner(Toy()), denominator=Denominator(0.5))
    first, _, third = steps(learner, [batch_of([1]), bad_image(torch.nan), batch_of([3])])
    assert [first.plan.num_boxes, third.plan.num_boxes] == [1.0, 2.0]


def test_dino_takes_no_step_on_an_image_that_is_not_a_number():
    model, criterion, _ = tiny_dino.build()
    start = flat(model)
    good, bad = tiny_dino.cut((2, 1), 1)
    bad.images[0, 0, 5, 5] = torch.nan
    first, second = steps(tiny_dino.learner(model, criterion), [good, bad, good, good], 2)
    assert (first.is_taken, is_finite(first)) == (False, False)
    assert (second.is_taken, is_finite(second)) == (True, True)
    assert flat(model).isfinite().all()
    other, criterion, _ = tiny_dino.build()
    train(tiny_dino.learner(other, criterion), [good, good], 2)
    assert torch.equal(flat(model), flat(other))
    assert not torch.equal(flat(model), start)


@pytest.mark.parametrize("max_norm", [0.1, float("inf")])
def test_an_overflow_of_fp16_is_not_taken_and_lowers_the_scale_until_it_is(max_norm):
    model = Toy().float()
    start = flat(model)
    learner = toy_learner(model, max_norm=max_norm, amp="fp16")
    batch = batch_of([3])
    batch = replace(batch, images=1e3 * batch.images.float())
    told = []

    def after(step):
        told.append((step.is_taken, is_finite(step), learner.precision.loss_scale, torch.equal(flat(model), start)))

    train(learner, [batch] * 20, 1, after=after)
    first_taken = [is_taken for is_taken, *_ in told].index(True)
    assert first_taken > 0
    scale = 2.0**16
    assert told[:first_taken] == [(False, True, scale / 2**i, True) for i in range(1, first_taken + 1)]
    assert told[first_taken] == (True, True, scale / 2**first_taken, False)


def test_an_infinite_loss_in_fp16_is_not_taken():
    model = Toy().float()
    start = flat(model)
    learner = replace(toy_learner(model, amp="fp16"), criterion=Plus(torch.inf))
    batch = batch_of([2])
    (step,) = steps(learner, [replace(batch, images=1e-3 * batch.images.float())])
    assert not step.is_taken
    assert not is_finite(step)
    assert torch.equal(flat(model), start)
    assert learner.precision.loss_scale < 2.0**16


class Huge(SumOverBoxes):
    """Gradients that are finite, but whose squares leave the range of float32."""

    def forward(self, outputs, targets, num_boxes):
        loss = super().forward(outputs, targets, num_boxes)["loss"]
        return {"loss": loss + 1e20 * (outputs - outputs.detach()).sum()}


def test_gradients_of_which_only_the_norm_overflows_are_not_taken_in_fp16():
    model = Toy().float()
    learner = replace(toy_learner(model, amp="fp16"), criterion=Huge())
    start, scale, seen = flat(model), learner.precision.loss_scale, []
    batch = batch_of([1])
    train(learner, [replace(batch, images=batch.images.float())], 1, after=seen.append)
    assert not seen[0].is_taken
    assert is_finite(seen[0])
    assert torch.equal(flat(model), start)
    assert learner.precision.loss_scale == scale / 2
