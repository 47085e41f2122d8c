"""A file of scripts/export.py as a detector, with a played session: that real files work is in test_export.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")

from models.export.onnx_detector import OnnxNetwork, OnnxSession
from models.export.portable import ExportFacts
from util.base.errors import UserError
from util.detection.batch import Sample, collate

FACTS = ExportFacts(
    names={1: "a"},
    threshold=0.5,
    post_processing="inside",
    num_select=2,
    nms_iou_threshold=0.5,
    category_ids=None,
    scale=8,
    max_size=16,
    height=None,
    width=None,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    config={},
)


class Played:
    """A session that says of each image its mean as the score, and its size as the box, twice."""

    def __init__(self, facts):
        self.facts, self.path, self.shapes = facts, "x.onnx", []

    def run(self, images, sizes):
        self.shapes.append(tuple(images.shape))
        mean = images.mean((1, 2, 3))
        scores = torch.stack((mean, mean / 2), dim=1)
        h, w = sizes.unbind(1)
        box = torch.stack((0 * w, 0 * h, w, h), dim=1).float()
        return scores, torch.ones(len(images), 2, dtype=torch.int64), box[:, None].repeat(1, 2, 1), None


def batch(*sizes):
    """Images whose pixels are all 1, 2, ...; files are ten times as large."""
    samples = [
        Sample(torch.full((3, h, w), float(i)), {"orig_size": torch.tensor([10 * h, 10 * w])})
        for i, (h, w) in enumerate(sizes, start=1)
    ]
    return collate(samples)


def test_padding_is_cut_off_and_images_of_a_size_go_together_and_the_order_stays():
    session = Played(FACTS)
    found = OnnxNetwork(session)(batch((8, 8), (8, 12), (8, 8)))
    assert session.shapes == [(2, 3, 8, 8), (1, 3, 8, 12)]
    assert [f["scores"].tolist() for f in found] == [[1.0], [2.0], [3.0]]  # the second box of each overlaps
    assert [f["boxes"].tolist() for f in found] == [[[0, 0, 80, 80]], [[0, 0, 120, 80]], [[0, 0, 80, 80]]]


def test_a_file_for_one_size_refuses_others():
    network = OnnxNetwork(Played(replace(FACTS, height=8, width=8)))
    assert len(network(batch((8, 8)))) == 1
    with pytest.raises(UserError, match=r"takes only images of 8 x 8 pixels .* resized to 12 x 8; .* --size dynamic"):
        network(batch((8, 12)))


def test_logits_become_the_same_detections():
    class Raw(Played):
        def run(self, images, _):
            boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.1, 0.2]]).expand(len(images), -1, -1)
            return torch.tensor([[[-1.0, 2.0], [0.0, -3.0]]]).expand(len(images), -1, -1), boxes, None

    facts = replace(FACTS, post_processing="outside")
    found = OnnxNetwork(Raw(facts))(batch((8, 8)))[0]
    np.testing.assert_allclose(found["scores"], torch.tensor([2.0, 0.0]).sigmoid())
    assert found["labels"].tolist() == [1, 0]
    np.testing.assert_allclose(found["boxes"], [[0, 0, 80, 80], [16, 32, 24, 48]], atol=1e-4)


def test_what_is_no_onnx_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file; make it with scripts/export.py"):
        OnnxSession(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"x.onnx: onnxruntime .* cannot load it .* make it again"):
        OnnxSession(tmp_path / "x.onnx")
