"""A window must give the gradient of the batch it stands for, however it is cut into micro-batches and ranks."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_dino
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine import Learner, accumulate, check_finite, predict, train_one_epoch
from util.batch import Batch, Window, windows
from util.precision import Precision

CPU = torch.device("cpu")
# no box anywhere, all on one image, some empty, all with boxes
COUNTS = [(0, 0, 0, 0), (0, 0, 4, 0), (2, 0, 1, 3), (1, 1, 1, 1)]


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(8, 1).double()

    def forward(self, images, _mask, _targets=None, _most_boxes=None):
        return self.net(images)


class SumOverBoxes(nn.Module):
    """Stands in for SetCriterion: a term on every query plus one on every box."""

    def forward(self, outputs, targets, num_boxes):
        terms = [out.square().sum() + out[: len(t["labels"])].sum() for out, t in zip(outputs, targets, strict=True)]
        return {"loss": sum(terms) / num_boxes}


def batch_of(counts, *, is_ghost=False):
    images = torch.stack([torch.full((5, 8), 0.1 * (c + 1)).double() for c in counts])
    targets = [{"labels": torch.zeros(c, dtype=torch.long), "image_id": torch.tensor(c)} for c in counts]
    return Batch(images, torch.zeros(len(counts), 1, 1, dtype=torch.bool), targets, is_ghost)


def toy_learner(model, *, max_norm=float("inf"), amp="off"):
    return Learner(
        model, SumOverBoxes(), torch.optim.SGD(model.parameters(), lr=1.0), Precision(amp, "cpu"), CPU, max_norm
    )


def train(learner, batches, accum_steps, *, before=lambda: None, after=lambda *_: None):
    train_one_epoch(learner, batches, accum_steps=accum_steps, before_step=before, after_step=after)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def toy_gradient(counts, size, *extra):
    model = Toy()
    batches = [batch_of(counts[i : i + size]) for i in range(0, len(counts), size)]
    accumulate(toy_learner(model), Window([*batches, *extra]))
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=6), size=st.integers(1, 3))
@settings(deadline=None)
def test_a_window_equals_one_big_batch(counts, size):
    torch.testing.assert_close(toy_gradient(counts, size), toy_gradient(counts, len(counts)), rtol=1e-12, atol=1e-12)


def test_a_ghost_batch_contributes_nothing():
    ghost = batch_of([5, 4], is_ghost=True)
    torch.testing.assert_close(toy_gradient([1, 0, 3], 1, ghost), toy_gradient([1, 0, 3], 1), rtol=0, atol=0)


def test_a_step_is_taken_per_window_and_the_last_may_be_short():
    model, seen = Toy(), []
    train(toy_learner(model), [batch_of([1])] * 7, 3, after=lambda window, _: seen.append(len(window.batches)))
    assert seen == [3, 3, 1]


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

    def after(window, losses):
        order.append(("after", torch.equal(flat(model), start)))
        assert losses.keys() == {"loss", "grad_norm"}
        assert window.num_boxes == 1
        assert all(p.grad is None for p in model.parameters())

    train(toy_learner(model), [batch_of([1])], 1, before=before, after=after)
    assert order == [("before", True), ("after", False)]


def test_gradients_are_clipped_over_the_whole_window():
    model, norms = Toy(), []
    start = flat(model)
    train(
        toy_learner(model, max_norm=0.01),
        [batch_of([3])] * 2,
        2,
        after=lambda _, losses: norms.append(losses["grad_norm"]),
    )
    assert norms[0] > 0.01
    assert (flat(model) - start).norm().item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_step_is_taken_on_a_loss_that_is_not_finite(value):
    model = Toy()
    start = flat(model)
    bad = batch_of([1, 2])
    bad.images[1, 0, 0] = value
    with pytest.raises(FloatingPointError, match=r"not finite: \{'loss': (nan|inf).*the optimizer step was not taken"):
        train(toy_learner(model), [batch_of([1]), bad], 2)
    assert torch.equal(flat(model), start)


def test_no_step_is_taken_on_a_gradient_that_is_not_finite():
    losses = {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(float("inf"))}
    with pytest.raises(FloatingPointError, match="grad_norm"):
        check_finite(losses)
    check_finite(losses, allow_overflow=True)
    with pytest.raises(FloatingPointError, match="loss"):
        check_finite({"loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(1.0)}, allow_overflow=True)
    check_finite({"loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)})


def test_a_finite_loss_with_an_aside_that_is_not_goes_on():
    check_finite({"loss": torch.tensor(1.0), "aside": torch.tensor(float("nan")), "grad_norm": torch.tensor(1.0)})


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

    accumulate(toy_learner(Shared()), Window([batch_of([1])] * 3))
    assert calls == ["held back", "forward", "held back", "forward", "forward"]


def test_training_mode_is_set_and_evaluation_leaves_no_graph():
    model = Toy().eval()
    train(toy_learner(model), [batch_of([1])], 1, before=lambda: None)
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


def run_window(batches, *options):
    model, criterion, _ = tiny_dino.build(*options)
    learner = tiny_dino.learner(model.train(), criterion)
    losses = accumulate(learner, Window(batches))
    return {name: value.item() for name, value in losses.items()}, tiny_dino.gradients(model)


def check_equal(found, wanted):
    (losses, gradients), (wanted_losses, wanted_gradients) = found, wanted
    assert losses == pytest.approx(wanted_losses, rel=1e-9, abs=1e-12)
    assert gradients.keys() == wanted_gradients.keys()
    largest = max(g.abs().max().item() for g in wanted_gradients.values())
    for name, gradient in wanted_gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-9, atol=1e-12 * largest, err_msg=name)


@pytest.mark.parametrize("counts", COUNTS)
def test_a_window_of_dino_equals_one_big_batch(counts):
    whole = run_window(tiny_dino.cut(counts, 4))
    assert (whole[0]["loss_bbox"] > 0) == (sum(counts) > 0)
    assert (whole[0]["loss_ce_dn"] > 0) == (sum(counts) > 0)
    for size in (1, 2):
        check_equal(run_window(tiny_dino.cut(counts, size)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("counts", COUNTS)
def test_the_official_padding_loss_depends_on_the_cut_in_the_denoising_class_term_alone(counts):
    whole, _ = run_window(tiny_dino.cut(counts, 4), "dn_padding_loss=True")
    single, _ = run_window(tiny_dino.cut(counts, 1), "dn_padding_loss=True")
    same = [name for name in whole if "_dn" not in name and name != "loss"]
    assert {k: single[k] for k in same} == pytest.approx({k: whole[k] for k in same}, rel=1e-9)


def test_a_ghost_batch_of_dino_contributes_nothing():
    counts = (2, 0, 3)
    ghost = tiny_dino.batch([2], counts, is_ghost=True)
    batches = [tiny_dino.batch([i], counts) for i in (0, 1)]
    check_equal(run_window([*batches, ghost]), run_window(batches))


@pytest.mark.parametrize("aux_loss", [True, False])
def test_every_trainable_weight_of_dino_has_a_gradient_even_without_boxes(aux_loss):
    _, gradients = run_window(tiny_dino.cut((0, 0), 1), f"aux_loss={aux_loss}")
    assert gradients["label_enc.weight"].abs().sum() == 0


def test_the_order_of_images_in_a_window_does_not_matter():
    counts = (2, 0, 1)
    forth = [tiny_dino.batch([i], counts) for i in (0, 1, 2)]
    check_equal(run_window(forth[::-1]), run_window(forth))


def test_two_ranks_equal_one_rank_with_accumulation(tmp_path):
    cases = {"both": (2, 1), "one": (0, 3), "none": (0, 0), "short": (2, 0, 1)}
    launch_two_ranks(tmp_path, json.dumps(cases))
    for name, counts in cases.items():
        check_equal(tiny_dino.read(tmp_path / f"{name}.pt"), run_window(tiny_dino.cut(counts, 1)))


def launch_two_ranks(*arguments):
    """What torchrun would do, without its own start-up."""
    script = Path(__file__).parent / "two_ranks.py"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(script.parent), str(script.parent.parent)]),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    command = [sys.executable, str(script), *map(str, arguments)]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-3000:]


def test_windows_of_an_epoch_add_up_to_all_batches():
    assert [len(w.batches) for w in windows([batch_of([1])] * 7, 3)] == [3, 3, 1]
