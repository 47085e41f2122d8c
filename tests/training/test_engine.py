"""A window must give the gradient of the batch it stands for, however it is cut into micro-batches and ranks."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import accumulate, predict
from tests.helpers.networks import tiny_dino
from tests.helpers.networks.toy import CPU, Toy, batch_of, flat, is_finite, steps, toy_learner, train
from util.detection.batch import Window, windows
from util.distributed.collectives import StepRequests, WindowPlan
from util.training.precision import Precision

# no box anywhere, all on one image, some empty, all with boxes
COUNTS = [(0, 0, 0, 0), (0, 0, 4, 0), (2, 0, 1, 3), (1, 1, 1, 1)]


def toy_gradient(counts, size, *extra):
    model = Toy()
    window = Window([*[batch_of(counts[i : i + size]) for i in range(0, len(counts), size)], *extra])
    accumulate(toy_learner(model), window, tiny_dino.plan(window))
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=6), size=st.integers(1, 3))
@settings(deadline=None)
def test_a_window_equals_one_big_batch(counts, size):
    torch.testing.assert_close(toy_gradient(counts, size), toy_gradient(counts, len(counts)), rtol=1e-12, atol=1e-12)


def test_a_ghost_batch_contributes_nothing():
    ghost = batch_of([5, 4], is_ghost=True)
    torch.testing.assert_close(toy_gradient([1, 0, 3], 1, ghost), toy_gradient([1, 0, 3], 1), rtol=0, atol=0)


def test_a_step_is_taken_per_window_and_the_last_may_be_short():
    seen = steps(toy_learner(Toy()), [batch_of([1])] * 7, 3)
    assert [len(step.window.batches) for step in seen] == [3, 3, 1]
    assert all(step.is_taken for step in seen)


def test_a_short_last_window_steps_as_far_as_a_window_of_its_size():
    one, other = Toy(), Toy()
    train(toy_learner(one), [batch_of([1])], 4)
    train(toy_learner(other), [batch_of([1])], 1)
    assert torch.equal(flat(one), flat(other))


def test_the_rate_is_set_before_and_the_weights_are_new_after_the_step():
    model, order = Toy(), []
    start = flat(model)

    def before():
        order.append(("before", torch.equal(flat(model), start)))
        return StepRequests(save=True)

    def after(step):
        order.append(("after", torch.equal(flat(model), start)))
        assert step.plan == WindowPlan(num_boxes=1.0, most_boxes=1, saves=True, stops=False)
        assert is_finite(step)
        assert all(p.grad is None for p in model.parameters())

    train(toy_learner(model), [batch_of([1])], 1, before=before, after=after)
    assert order == [("before", True), ("after", False)]


def test_the_losses_of_a_step_are_those_of_its_batches_and_add_up_to_those_of_the_window():
    batches = [batch_of([2]), batch_of([0, 1])]
    (step,) = steps(toy_learner(Toy()), batches, 2)
    assert len(step.losses) == 2
    assert step.total["loss"] == pytest.approx(sum(part["loss"].item() for part in step.losses), rel=1e-12)
    (whole,) = steps(toy_learner(Toy()), [batch_of([2, 0, 1])])
    assert step.total["loss"].item() == pytest.approx(whole.total["loss"].item(), rel=1e-12)


def test_gradients_are_clipped_over_the_whole_window():
    model = Toy()
    start = flat(model)
    (step,) = steps(toy_learner(model, max_norm=0.01), [batch_of([3])] * 2, 2)
    assert step.grad_norm > 0.01
    assert (flat(model) - start).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_ranks_exchange_gradients_on_the_last_batch_only():
    calls = []

    class Shared(Toy):
        @contextmanager
        def no_sync(self):
            calls.append("held back")
            yield

        def forward(self, *arguments):
            calls.append("forward")
            return super().forward(*arguments)

    window = Window([batch_of([1])] * 3)
    accumulate(toy_learner(Shared()), window, tiny_dino.plan(window))
    assert calls == ["held back", "forward", "held back", "forward", "forward"]


def test_training_mode_is_set_and_evaluation_leaves_no_graph():
    model = Toy().eval()
    train(toy_learner(model), [batch_of([1])], 1)
    assert model.training

    def postprocess(outputs, targets):
        assert not outputs.requires_grad
        return [{"scores": torch.rand(2), "labels": torch.tensor([1, 3]), "boxes": torch.rand(2, 4)} for _ in targets]

    seen = []
    found = predict(
        model,
        postprocess,
        [batch_of([4, 2]), batch_of([9])],
        precision=Precision("off", "cpu"),
        device=CPU,
        after_batch=seen.append,
    )
    assert not model.training
    assert len(seen) == 2
    assert found.images == (4, 2, 9)
    assert found.image_id.tolist() == [4, 4, 2, 2, 9, 9]
    assert found.label.tolist() == [1, 3] * 3
    assert found.xyxy.shape == (6, 4)


def test_images_without_a_detection_are_listed():
    def postprocess(_outputs, targets):
        return [
            {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}
            for _ in targets
        ]

    options = {"precision": Precision("off", "cpu"), "device": CPU, "after_batch": lambda _: None}
    found = predict(Toy(), postprocess, [batch_of([4, 2])], **options)
    assert found.images == (4, 2)
    assert len(found.score) == 0
    assert predict(Toy(), postprocess, [], **options).images == ()


# ---------------------------------------------------------------------------------------------
# the same with a real DINO


@pytest.mark.parametrize("counts", COUNTS)
def test_a_window_of_dino_equals_one_big_batch(counts):
    whole = tiny_dino.run_window(tiny_dino.cut(counts, 4))
    assert (whole[0]["loss_bbox"] > 0) == (sum(counts) > 0)
    assert (whole[0]["loss_ce_dn"] > 0) == (sum(counts) > 0)
    for size in (1, 2):
        tiny_dino.check_equal(tiny_dino.run_window(tiny_dino.cut(counts, size)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("counts", COUNTS)
def test_the_official_padding_loss_depends_on_the_cut_in_the_denoising_class_term_alone(counts):
    whole, _ = tiny_dino.run_window(tiny_dino.cut(counts, 4), "dn_padding_loss=True")
    single, _ = tiny_dino.run_window(tiny_dino.cut(counts, 1), "dn_padding_loss=True")
    same = [name for name in whole if "_dn" not in name and name != "loss"]
    assert {k: single[k] for k in same} == pytest.approx({k: whole[k] for k in same}, rel=1e-9)


def test_a_ghost_batch_of_dino_contributes_nothing():
    counts = (2, 0, 3)
    ghost = tiny_dino.batch([2], counts, is_ghost=True)
    batches = [tiny_dino.batch([i], counts) for i in (0, 1)]
    tiny_dino.check_equal(tiny_dino.run_window([*batches, ghost]), tiny_dino.run_window(batches))


@pytest.mark.parametrize("aux_loss", [True, False])
def test_every_trainable_weight_of_dino_has_a_gradient_even_without_boxes(aux_loss):
    _, gradients = tiny_dino.run_window(tiny_dino.cut((0, 0), 1), f"aux_loss={aux_loss}")
    assert gradients["label_enc.weight"].abs().sum() == 0


def test_the_order_of_images_in_a_window_does_not_matter():
    counts = (2, 0, 1)
    forth = [tiny_dino.batch([i], counts) for i in (0, 1, 2)]
    tiny_dino.check_equal(tiny_dino.run_window(forth[::-1]), tiny_dino.run_window(forth))


@pytest.mark.parametrize("size", [1, 2])
def test_dropout_follows_from_the_images_not_from_their_place(size):
    batches = tiny_dino.cut((2, 0, 1, 3), size)
    torch.manual_seed(1)
    forth = tiny_dino.run_window(batches, "dropout=0.1")
    torch.manual_seed(2)
    tiny_dino.check_equal(tiny_dino.run_window(batches[::-1], "dropout=0.1"), forth)
    assert forth[0]["loss"] != pytest.approx(tiny_dino.run_window(batches)[0]["loss"], rel=1e-3)


def test_two_batches_do_not_share_their_dropout():
    """Else all images of a run would lose the same units."""
    first, second = tiny_dino.cut((0, 0), 1)
    assert first.seed != second.seed
    same_pixels = replace(second, images=first.images)
    one, other = (tiny_dino.run_window([batch], "dropout=0.1")[0]["loss"] for batch in (first, same_pixels))
    assert one != pytest.approx(other, rel=1e-6)


def test_windows_of_an_epoch_add_up_to_all_batches():
    assert [len(w.batches) for w in windows([batch_of([1])] * 7, 3)] == [3, 3, 1]
