"""The network, its loss and its gradients are numerically the official ones."""

import numpy as np
import pytest
import torch

from tests.helpers.golden.generic_functions import generic_functions
from tests.helpers.golden.model import ORIG_SIZES, entries, figures, filled, golden_noise, images, table, targets
from util.training.optimizer import build_optimizer

FLOAT32 = {"logits": {300: 3e-5, 900: 5e-5}, "boxes": 3e-6, "loss": 3e-6, "pixels": 2e-3}
FLOAT64 = {"logits": {300: 1e-10, 900: 1e-10}, "boxes": 1e-11, "loss": 1e-10, "pixels": 1e-9}
PRECISIONS = [(torch.float32, FLOAT32), (torch.float64, FLOAT64)]


@pytest.fixture(scope="module", autouse=True)
def _generic_functions():
    with generic_functions():
        yield


def near(actual, wanted, atol):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [PRECISIONS[0], pytest.param(*PRECISIONS[1], marks=pytest.mark.slow)],
    ids=["float32", "float64"],
)
@pytest.mark.parametrize("num_queries", [300, pytest.param(900, marks=pytest.mark.slow)])
def test_evaluation_forward_is_the_official_one(num_queries, dtype, tolerance):
    model, _, postprocess = filled(f"num_queries={num_queries}", dtype=dtype)
    with torch.no_grad():
        outputs = model.eval()(*images(dtype))
    gold, prefix = figures("forward"), f"q{num_queries}/"
    found = {
        "pred_logits": outputs.last.logits,
        "pred_boxes": outputs.last.boxes,
        "interm.logits": outputs.proposals.logits,
        "interm.boxes": outputs.proposals.boxes,
        **{f"aux{i}.logits": layer.logits for i, layer in enumerate(outputs.layers[:-1])},
        **{f"aux{i}.boxes": layer.boxes for i, layer in enumerate(outputs.layers[:-1])},
    }
    for name, tensor in found.items():
        atol = tolerance["boxes"] if name.endswith("boxes") else tolerance["logits"][num_queries]
        key = prefix + name
        if key in gold:
            near(tensor, gold[key], atol)
        else:
            wanted = gold[f"{key}.entries"]
            near(entries(tensor, len(wanted)), wanted, atol)
    if num_queries == 300:
        for b, image in enumerate(postprocess(outputs, ORIG_SIZES)):
            near(image["scores"], gold[f"{prefix}post{b}.scores"], tolerance["logits"][300])
            assert image["labels"].tolist() == gold[f"{prefix}post{b}.labels"].tolist()
            near(image["boxes"], gold[f"{prefix}post{b}.boxes"], tolerance["pixels"])


@pytest.fixture(scope="module", params=PRECISIONS, ids=["float32", "float64"])
def evaluated(request):
    dtype, tolerance = request.param
    model, _, _ = filled("num_queries=300", dtype=dtype)
    with torch.no_grad():
        return model.eval()(*images(dtype)), tolerance


@pytest.mark.parametrize("alpha", [0.25, 0.75])
@pytest.mark.parametrize("batch", ["A", "B", "Z"])
def test_losses_and_assignments_are_the_official_ones(evaluated, batch, alpha):
    outputs, tolerance = evaluated
    _, criterion, _ = filled(f"focal_alpha={alpha}")
    truth = targets(batch, outputs.last.boxes.dtype)
    num_boxes = max(1.0, sum(len(t["labels"]) for t in truth))
    losses = criterion(outputs, truth, num_boxes)
    gold = table("losses")[f"{batch}/alpha{alpha}/eval"]
    assert losses["loss"].item() == pytest.approx(gold["total"], rel=tolerance["loss"])
    assert {k: v.item() for k, v in losses.items() if k != "loss"} == pytest.approx(
        gold["losses"], rel=tolerance["loss"]
    )
    order = [*outputs.layers[:-1], outputs.proposals, outputs.last]
    for assignment, wanted in zip(criterion.matcher(order, truth), gold["indices"], strict=True):
        for i, (queries, boxes) in enumerate(wanted):
            rows = assignment.image == i
            assert assignment.query[rows].tolist() == queries
            assert assignment.box[rows].tolist() == boxes


def train_once(batch, alpha, dtype):
    model, criterion, _ = filled("num_queries=300", f"focal_alpha={alpha}", dtype=dtype)
    truth = targets(batch, dtype)
    with golden_noise():
        outputs = model.train()(*images(dtype), truth)
    losses = criterion(outputs, truth, max(1.0, sum(len(t["labels"]) for t in truth)))
    losses["loss"].backward()
    return model, outputs, losses


def test_training_step_is_the_official_one():
    check_training_step("A", 0.25, torch.float64, FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["float32", "float64"])
@pytest.mark.parametrize(("batch", "alpha"), [("A", 0.75), ("B", 0.25), ("B", 0.75), ("Z", 0.25), ("Z", 0.75)])
def test_training_step_of_other_batches_is_the_official_one(batch, alpha, dtype, tolerance):
    check_training_step(batch, alpha, dtype, tolerance)


def check_training_step(batch, alpha, dtype, tolerance):
    """Losses with denoising, gradient norms of all parameters, gradients and one optimizer step."""
    model, outputs, losses = train_once(batch, alpha, dtype)
    gold = table("losses")[f"{batch}/alpha{alpha}/train"]
    assert losses["loss"].item() == pytest.approx(gold["total"], rel=tolerance["loss"])
    assert {k: v.item() for k, v in losses.items() if k != "loss"} == pytest.approx(
        gold["losses"], rel=tolerance["loss"], abs=1e-12
    )
    is_double = dtype == torch.float64
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    total = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert total == pytest.approx(gold["grad_norm"]["total"], rel=1e-10 if is_double else 3e-4)
    if "grad_norm_per_parameter" in gold:
        norms = {n: g.norm().item() for n, g in gradients.items()}
        assert norms == pytest.approx(gold["grad_norm_per_parameter"], rel=1e-9 if is_double else 3e-4, abs=1e-12)
    if is_double and batch in "AB" and alpha == 0.25:
        check_details(batch, model, outputs, gold)


def check_details(batch, model, outputs, gold):
    arrays = figures("train")
    first = {n.split("/", 1)[1]: arrays[n] for n in arrays.files if n.startswith(f"{batch}/")}
    near(entries(outputs.denoising.layers[-1].logits, 256), first["dn_pred_logits.entries"], 1e-10)
    near(entries(outputs.denoising.layers[-1].boxes, 256), first["dn_pred_boxes.entries"], 1e-10)
    named = dict(model.named_parameters())
    alias = {"bbox_embed": "transformer.decoder.bbox_embed", "class_embed": "transformer.decoder.class_embed"}

    def parameter(name):
        head = name.split(".")[0]
        return named[name if name in named else name.replace(head, alias[head], 1)]

    for key, wanted in first.items():
        if key.startswith("grad/"):
            found = entries(parameter(key.removeprefix("grad/").removesuffix(".entries")).grad)
            np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())
    before = {n: p.detach().clone() for n, p in named.items()}
    returned = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert returned.item() == pytest.approx(gold["grad_norm"]["total"], rel=1e-10)
    optimizer = build_optimizer(
        model, kind="default", lr=1e-4, lr_backbone=1e-5, lr_linear_proj_mult=0.1, weight_decay=1e-4
    )
    optimizer.step()
    for key, wanted in first.items():
        if key.startswith("step/"):
            name = key.removeprefix("step/").removesuffix(".delta_entries")
            moved = parameter(name).detach() - before[next(n for n in named if named[n] is parameter(name))]
            np.testing.assert_allclose(entries(moved), wanted, rtol=1e-5, atol=1e-12)
