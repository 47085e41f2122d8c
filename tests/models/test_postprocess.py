import pytest
import torch

from models.outputs import DINOOutput, Prediction
from models.postprocess import PostProcess
from tests.helpers.golden.model import figures


def gold(name):
    return torch.from_numpy(figures("components")[name])


def outputs(logits, boxes):
    made = Prediction(logits, boxes)
    return DINOOutput((made,), made)


def official():
    return outputs(gold("post/logits"), gold("post/boxes"))


@pytest.mark.parametrize(("name", "nms"), [("default", 0.0), ("nms0.5", 0.5)])
def test_detections_are_the_official_ones(name, nms):
    found = PostProcess(5, nms, None)(official(), gold("post/target_sizes"))
    for i, image in enumerate(found):
        for part in ("scores", "labels", "boxes"):
            torch.testing.assert_close(image[part], gold(f"post/{name}/{i}/{part}"), rtol=1e-5, atol=1e-3)


def test_sizes_come_from_targets_too():
    sizes = gold("post/target_sizes")
    one = PostProcess(5, 0.0, None)(official(), sizes)
    other = PostProcess(5, 0.0, None)(official(), [{"orig_size": size} for size in sizes])
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(one, other, strict=True))


def test_a_detection_by_hand():
    logits = torch.full((1, 2, 3), -9.0)
    logits[0, 1, 2] = 0.0
    boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.4]]])
    [found] = PostProcess(1, 0.0, None)(outputs(logits, boxes), torch.tensor([[100, 200]]))
    assert found["scores"].tolist() == [0.5]
    assert found["labels"].tolist() == [2]
    assert found["boxes"][0].tolist() == pytest.approx([80, 30, 120, 70], abs=1e-4)


def test_a_query_may_answer_with_several_classes():
    logits = torch.tensor([[[3.0, 2.0], [-5.0, -5.0]]])
    [found] = PostProcess(2, 0.0, None)(outputs(logits, torch.rand(1, 2, 4)), torch.tensor([[10, 10]]))
    assert found["labels"].tolist() == [0, 1]
    assert torch.equal(found["boxes"][0], found["boxes"][1])


def test_only_categories_of_the_data_are_predicted():
    logits = torch.tensor([[[9.0, 1.0, 8.0, 2.0]]])
    [found] = PostProcess(9, 0.0, (1, 3))(outputs(logits, torch.rand(1, 1, 4)), torch.tensor([[10, 10]]))
    assert found["labels"].tolist() == [3, 1]
    assert found["scores"].tolist() == pytest.approx(torch.tensor([2.0, 1.0]).sigmoid().tolist())


def test_scores_fall_and_there_are_at_most_as_many_as_asked_for():
    [found] = PostProcess(7, 0.0, None)(outputs(torch.randn(1, 5, 4), torch.rand(1, 5, 4)), torch.tensor([[9, 9]]))
    assert len(found["scores"]) == 7
    assert (found["scores"].diff() <= 0).all()
    [found] = PostProcess(300, 0.0, None)(outputs(torch.randn(1, 5, 4), torch.rand(1, 5, 4)), torch.tensor([[9, 9]]))
    assert len(found["scores"]) == 20


def test_suppression_is_blind_to_the_class():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.21], [0.1, 0.1, 0.1, 0.1]]])
    logits = torch.tensor([[[2.0, -9.0], [-9.0, 1.0], [0.0, -9.0]]])
    [found] = PostProcess(3, 0.5, None)(outputs(logits, boxes), torch.tensor([[100, 100]]))
    assert found["labels"].tolist() == [0, 0]
    [found] = PostProcess(3, 0.0, None)(outputs(logits, boxes), torch.tensor([[100, 100]]))
    assert found["labels"].tolist() == [0, 1, 0]


def test_boxes_are_not_clipped_and_need_no_gradient():
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]], requires_grad=True)
    [found] = PostProcess(1, 0.0, None)(outputs(torch.zeros(1, 1, 1), boxes), torch.tensor([[100, 100]]))
    assert found["boxes"][0].tolist() == pytest.approx([-25, -25, 25, 25])
    assert not found["boxes"].requires_grad


def test_the_categories_are_no_part_of_a_checkpoint():
    assert not PostProcess(1, 0.0, (1, 2)).state_dict()
