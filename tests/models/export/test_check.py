"""The check of an exported file finds what is wrong with it, and lets pass what rounding may do."""

import math

import pytest
import torch

from models.export.check import BOX_BOUND, SCORE_BOUND, Agreement, compare, merge_agreements, pair
from models.export.portable import (
    ExportFacts,
    PortableDetector,
    PortableNetwork,
    forced_tokens,
    recorded_tokens,
    smallest_side,
)
from tests.helpers.networks.tiny_dino import SIDE, build
from util.base.errors import UserError

FACTS = ExportFacts(
    names={1: "a", 3: "b"},
    threshold=None,
    post_processing="inside",
    num_select=12,
    nms_iou_threshold=0.5,
    category_ids=(1, 3),
    scale=96,
    max_size=128,
    height=None,
    width=None,
    mean=(0.5, 0.5, 0.5),
    std=(1.0, 1.0, 1.0),
    config={"num_queries": 12, "return_interm_indices": (1, 2)},
)


@pytest.fixture(scope="module")
def parts():
    """A network in float64, so that rounding is nothing, its post-processing, and two images."""
    model, _, postprocess = build()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model.eval(), postprocess, images


def check(parts, change=lambda outputs: outputs, post_processing="inside"):
    """Compare PyTorch, changed, with PyTorch."""
    model, postprocess, images = parts
    if post_processing == "inside":
        graph = PortableDetector(model, postprocess)
        return compare(lambda i, s: change(graph(i, s)), post_processing, model, postprocess, images)
    graph = PortableNetwork(model)
    return compare(lambda i, _: change(graph(i)), post_processing, model, postprocess, images)


@pytest.mark.parametrize("post_processing", ["inside", "outside"])
def test_the_network_agrees_with_itself(parts, post_processing):
    with torch.no_grad():
        found = check(parts, post_processing=post_processing)
    assert found == Agreement(2, 0.0, 0.0, 2, 24, 24)
    assert found.is_good


@pytest.mark.parametrize("post_processing", ["inside", "outside"])
def test_the_gate_of_the_image_head_is_inside_a_file_and_one_without_it_is_found(parts, post_processing):
    model, _, gated = build("image_head=True", "image_loss_coef=1", "image_gate=1")
    without, images = build()[2], parts[2]

    def found(postprocess):
        if post_processing == "inside":
            graph = PortableDetector(model.eval(), postprocess)
            return compare(graph, post_processing, model, gated, images)
        graph = PortableNetwork(model.eval(), postprocess.image_gate)
        return compare(lambda i, _: graph(i), post_processing, model, gated, images)

    with torch.no_grad():
        assert found(gated) == Agreement(2, 0.0, 0.0, 2, 24, 24)
        assert found(without).score > SCORE_BOUND


@pytest.mark.parametrize(("position", "amount", "what"), [(0, 2 * SCORE_BOUND, "score"), (2, 2 * BOX_BOUND, "box")])
def test_one_number_that_deviates_is_found(parts, position, amount, what):
    def change(outputs):
        changed = [output.clone() for output in outputs]
        changed[position][1, -1] -= amount
        return tuple(changed)

    with torch.no_grad():
        found = check(parts, change)
    assert not found.is_good
    assert getattr(found, what) == pytest.approx(amount)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_found(parts, value):
    with torch.no_grad():
        found = check(parts, lambda o: (o[0], o[1], torch.full_like(o[2], value), o[3]))
    assert found.box == math.inf


def test_a_cell_that_is_not_among_the_best_is_found_although_the_rest_follows_from_it(parts):
    model, postprocess, images = parts
    with torch.no_grad(), recorded_tokens(model) as seen:
        PortableNetwork(model)(images)
    worse = seen[0].clone()
    others = sorted(set(range(int(worse.max()) + 1)) - set(worse[0].tolist()))
    worse[0, -1] = others[0]

    def runner(i, s):
        with torch.no_grad(), forced_tokens(model, worse):
            return PortableDetector(model, postprocess)(i, s)

    found = compare(runner, "inside", model, postprocess, images)
    assert found.num_same_choice == 1
    assert found.score > SCORE_BOUND
    assert found.box < BOX_BOUND


def test_a_cell_chosen_twice_is_found(parts):
    model, postprocess, images = parts
    with torch.no_grad(), recorded_tokens(model) as seen:
        PortableNetwork(model)(images)
    twice = seen[0].clone()
    twice[1, 1] = twice[1, 0]

    def runner(i, s):
        with torch.no_grad(), forced_tokens(model, twice):
            return PortableDetector(model, postprocess)(i, s)

    assert compare(runner, "inside", model, postprocess, images).score == math.inf


def test_cells_with_equal_scores_may_change_places(parts):
    """A network whose cells all score the same chooses by the order in which it looks; both orders are right."""
    model, _, postprocess = build()
    model = model.eval()
    images = parts[2]
    with torch.no_grad():
        model.transformer.enc_out_class_embed.weight.zero_()
        with recorded_tokens(model) as seen:
            PortableNetwork(model)(images)
        swapped = seen[0].flip(1)
        assert not torch.equal(swapped, seen[0])

        def runner(i, s):
            with torch.no_grad(), forced_tokens(model, swapped):
                return PortableDetector(model, postprocess)(i, s)

        found = compare(runner, "inside", model, postprocess, images)
    assert found.is_good
    assert found.num_same_choice == 0
    assert found.num_paired < found.num_detections  # and this is why the choice is taken over


def test_pairs_are_one_to_one_and_of_one_label():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 1.0, 1.0]])
    theirs = (torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2]), boxes)
    ours = (torch.tensor([0.8, 0.9, 0.7]), torch.tensor([1, 1, 2]), boxes[[1, 0, 2]])
    rows, columns, ratios = pair(theirs, ours)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0, 2: 2}
    assert ratios.max() == 0


def test_the_worst_of_two_agreements_counts():
    both = merge_agreements([Agreement(1, 0.1, 0.2, 1, 5, 4), Agreement(2, 0.3, 0.1, 0, 7, 7)])
    assert both == Agreement(3, 0.3, 0.2, 1, 12, 11)
    assert not both.is_good
    assert Agreement(1, 0.0, 0.0, 1, 1, 1).is_good
    assert not Agreement(1, BOX_BOUND, 0.0, 1, 1, 1).is_good
    assert not Agreement(1, 0.0, SCORE_BOUND, 1, 1, 1).is_good


def test_the_smallest_side_has_a_cell_for_each_query_and_two_on_each_level():
    assert smallest_side(1, [8, 16]) == 17  # 2 x 2 on the coarser level
    assert smallest_side(20, [8, 16]) == 25  # 4 x 4 + 2 x 2
    assert smallest_side(900, [8, 16, 32, 64]) == 201  # 26 x 26 + 13 x 13 + 7 x 7 + 4 x 4


def test_facts_survive_the_file():
    assert ExportFacts.from_json(FACTS.to_json(), "x.onnx").names == {1: "a", 3: "b"}
    again = ExportFacts.from_json(FACTS.to_json(), "x.onnx")
    assert again.category_ids == (1, 3)
    assert again.to_json() == FACTS.to_json()


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"names": {}}', '{"names": {"a": "b"}}'])
def test_a_file_that_does_not_say_how_to_use_it_is_refused(text):
    with pytest.raises(UserError, match=r"x.onnx: its metadata has no complete entry .* scripts/export.py"):
        ExportFacts.from_json(text, "x.onnx")
