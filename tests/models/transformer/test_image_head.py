import pytest
import torch

from models.outputs import DINOOutput, Prediction
from models.postprocess import PostProcess, apply_image_gate
from models.transformer.image_head import ImageHead
from tests.helpers.networks.tiny_dino import batch, build


def test_it_starts_as_a_plain_mean_over_what_is_not_padding():
    head = ImageHead(8).double()
    memory = torch.randn(2, 5, 8, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    wanted = torch.stack([head.answer(memory[0].mean(0)), head.answer(memory[1, :2].mean(0))])[:, 0]
    torch.testing.assert_close(head(memory, padding), wanted)


def test_padding_changes_nothing():
    head = ImageHead(8).double()
    torch.nn.init.normal_(head.attention.weight)
    memory = torch.randn(1, 5, 8, dtype=torch.float64)
    longer = torch.cat((memory, torch.full((1, 3, 8), 1e3, dtype=torch.float64)), dim=1)
    padding = torch.tensor([[False] * 5 + [True] * 3])
    torch.testing.assert_close(head(longer, padding), head(memory, padding[:, :5]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_its_tokens_and_nothing_else(dtype):
    head, memory = ImageHead(32), torch.randn(64, 40, 32).to(dtype)
    torch.nn.init.normal_(head.attention.weight)
    padding = torch.zeros(64, 40, dtype=torch.bool)
    with torch.autocast("cpu", dtype=dtype):
        found = head(memory, padding)
    assert torch.equal(found, head(memory.float(), padding))


def test_the_network_without_it_is_the_official_one_and_with_it_only_has_more():
    plain, more = build()[0], build("image_head=True", "image_loss_coef=0.1")[0]
    assert {*more.state_dict()} - {*plain.state_dict()} == {
        f"image_head.{name}" for name in ("attention.weight", "answer.weight", "answer.bias")
    }
    made = batch([0, 1], [1, 0])
    assert plain(made.images, made.mask).image_logits is None


@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
def test_every_weight_of_it_gets_a_gradient_on_every_step(counts):
    model, criterion, _ = build("image_head=True", "image_loss_coef=0.1")
    made = batch([0, 1], counts)
    outputs = model(made.images, made.mask, made.targets)
    criterion(outputs, made.targets, 2.0)["loss"].backward()
    assert all(p.grad is not None for p in model.image_head.parameters())
    assert model.image_head.answer.weight.grad.abs().sum() > 0


def answer(logits, image_logits):
    made = Prediction(logits, torch.rand(*logits.shape[:2], 4))
    return DINOOutput((made,), made, image_logits=image_logits)


@pytest.mark.parametrize("gate", [0.5, 1.0, 3.0])
def test_the_gate_multiplies_scores(gate):
    logits, image_logits = torch.randn(2, 5, 3, dtype=torch.float64) * 4, torch.randn(2, dtype=torch.float64)
    found = apply_image_gate(answer(logits, image_logits), gate).logits.sigmoid()
    torch.testing.assert_close(found, logits.sigmoid() * image_logits.sigmoid()[:, None, None] ** gate)


def test_without_a_gate_the_answer_is_the_very_same():
    made = answer(torch.randn(2, 5, 3), torch.randn(2))
    assert apply_image_gate(made, 0.0) is made.last


def test_extreme_answers_stay_numbers():
    logits = torch.tensor([[[-1e4], [-90.0], [0.0], [90.0], [1e4]]])
    for whole in (-1e4, -90.0, 0.0, 90.0, 1e4):
        scores = apply_image_gate(answer(logits, torch.tensor([whole])), 1.0).logits.sigmoid()
        assert ((scores >= 0) & (scores <= 1)).all()


def test_the_gate_orders_boxes_of_a_healthy_image_behind_those_of_a_sick_one():
    made = answer(torch.zeros(2, 1, 1), torch.tensor([-3.0, 3.0]))
    healthy, sick = PostProcess(1, 0.0, None, image_gate=1.0)(made, torch.tensor([[9, 9], [9, 9]]))
    assert healthy["scores"].item() == pytest.approx(0.5 / (1 + 2.718281828**3), rel=1e-5)
    assert sick["scores"] > healthy["scores"]
