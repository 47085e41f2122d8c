"""The script that compares denominators: weights by hand, gradients against one big batch, and the command itself."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.training import call_apart
from util.distributed.exit_codes import run_to_exit_code

ROOT = Path(__file__).parents[2]
SCRIPT = "scripts/measure/compare_denominators.py"
script = importlib.import_module("scripts.measure.compare_denominators")

TRUE, MEAN, SUM, CLAMP = script.TRUE, script.MEAN, script.SUM, script.CLAMP
COUNTS = [0, 2, 0, 1, 0, 0, 0, 3]


@pytest.fixture(scope="module")
def annotations_only(tmp_path_factory):
    """A data folder of 8 images of which not one file is there."""
    folder = tmp_path_factory.mktemp("annotations_only")
    write(folder, COUNTS)
    return folder


def write(folder, counts):
    boxes = [(i, k) for i, n in enumerate(counts) for k in range(n)]
    record = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 512, "height": 512} for i in range(len(counts))],
        "annotations": [
            {"id": j, "image_id": i, "category_id": 1 + k % 2, "bbox": [40 + 90 * k, 60, 80, 120]}
            for j, (i, k) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "ActiveTuberculosis"}, {"id": 2, "name": "ObsoletePulmonaryTuberculosis"}],
    }
    path = folder / "annotations/json/TBX11K_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))


def targets(folder):
    split = script.load_split(folder, folder / "annotations/json/TBX11K_train.json")
    return split, script.targets_of(split, 0)


def test_weights_of_a_step_of_one_rank():
    found = script.weights(np.array([3, 0, 1, 0]), ranks=1)
    np.testing.assert_allclose(found[TRUE], [1 / 4] * 4)
    np.testing.assert_allclose(found[MEAN], [1 / 12, 1 / 4, 1 / 4, 1 / 4])
    np.testing.assert_allclose(found[SUM], [1 / 3, 1, 1, 1])
    np.testing.assert_allclose(found[CLAMP], found[TRUE])


def test_weights_of_a_step_with_fewer_boxes_than_ranks():
    found = script.weights(np.array([2, 0, 0, 0]), ranks=4)
    np.testing.assert_allclose(found[TRUE], [1 / 2] * 4)  # 1 / 4 from the average over ranks, denominator 2 / 4
    np.testing.assert_allclose(found[MEAN], [1 / 8, 1 / 4, 1 / 4, 1 / 4])
    np.testing.assert_allclose(found[SUM], found[MEAN])
    np.testing.assert_allclose(found[CLAMP], [1 / 4] * 4)  # 1 / 4, denominator max(1, 2 / 4)


def test_weights_of_a_step_without_a_box():
    found = script.weights(np.array([0, 0, 0, 0]), ranks=2)
    np.testing.assert_allclose([found[w][0] for w in (TRUE, MEAN, SUM, CLAMP)], [1, 1 / 4, 1 / 2, 1 / 2])


def test_a_short_last_step_counts_the_rounds_that_it_takes():
    np.testing.assert_allclose(script.weights(np.array([1, 0, 2]), ranks=2)[MEAN], [1 / 4, 1 / 4, 1 / 8])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 4))
def test_the_floor_per_rank_is_wrong_exactly_where_boxes_are_fewer_than_ranks(boxes, ranks):
    found = script.weights(np.array(boxes), ranks)
    assert np.allclose(found[CLAMP], found[TRUE]) == (max(1, sum(boxes)) >= ranks)


def test_a_step_is_split_in_the_order_of_the_epoch_and_the_last_may_be_short():
    assert script.StepLayout(2, 1, 2).micro_batches([5, 3, 0, 1, 4, 2, 6]) == [[[5, 3], [0, 1]], [[4, 2], [6]]]


def test_the_table_of_weights_is_that_of_a_count_by_hand():
    # steps (0, 2) and (0, 0): the sum counts the empty image beside two boxes twice, the mean halves the empty step
    told = script.weights_table(np.array([0, 2, 0, 0]), [0, 1, 2, 3], [script.StepLayout(1, 2, 1)])
    mean, undivided = ([c.strip() for c in line.split("|")[1:-1]] for line in told.splitlines()[2:])
    assert mean == [
        "1 x 2 x 1",
        MEAN,
        "100.0%",
        *("0.5", "0.5 to 0.5", "0.5 to 0.5"),
        *("1", "1 to 1", "1 to 1"),
        "0.5",
    ]
    assert undivided[2:] == ["50.0%", *("1", "1 to 1", "1 to 1"), *("2", "2 to 2", "2 to 2"), "1"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_one_denominator_gives_the_gradient_of_one_big_batch(annotations_only, ranks):
    split, every = targets(annotations_only)
    network = script.build_network(0.5, 0, split.category_ids)
    step = every[:4]
    rows = torch.stack([script.undivided_gradient(network, [t], 2, 0) for t in step])
    big = script.undivided_gradient(network, step, 2, 0) / 3
    boxes = np.array(COUNTS[:4])
    summed = torch.from_numpy(script.weights(boxes, ranks)[TRUE]) @ rows
    assert (summed - big).norm() < 1e-9 * big.norm()
    found = script.compare(rows, boxes, ranks)
    assert found[TRUE] == pytest.approx((1, 1), abs=1e-12)
    assert found[SUM][1] < 1 - 1e-6


def test_a_denominator_divides_every_term_also_those_of_denoising(annotations_only):
    split, every = targets(annotations_only)
    model, criterion = script.build_network(0.01, 0, split.category_ids)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    outputs = model(images, torch.zeros(1, 64, 64, dtype=torch.bool), [every[7]], 3)
    whole, parts = criterion(outputs, [every[7]], 1.0), criterion(outputs, [every[7]], 2.5)
    assert whole["loss_ce_dn"] > 0
    torch.testing.assert_close({k: v / 2.5 for k, v in whole.items()}, dict(parts))


@pytest.mark.slow
def test_the_command_needs_annotations_alone_and_repeats_itself(annotations_only, capsys):
    command = [SCRIPT, "--data_path", annotations_only, "--num_steps", 1, "--step_sizes", "1x2x1", "1x1x2"]
    outcome = call_apart(*command)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("TBX11K_train: 8 images, 6 boxes, 62.5% of images without one\n")
    assert outcome.out.splitlines()[-1].endswith("--num_steps 1 --step_sizes 1x2x1 1x1x2")
    lines = [line for line in outcome.out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 + 2 + 2 * 4
    for part in (lines[:6], lines[6:]):
        assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in part}) == 1
    layouts = [script.StepLayout(1, 2, 1), script.StepLayout(1, 1, 2)]
    script.report(annotations_only, "TBX11K_train", layouts, 1, 0)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == lines


@pytest.mark.parametrize(
    ("folder", "name", "phrase"),
    [
        ("nowhere", "TBX11K_train", "nowhere: TBX11K needs annotations/json/NAME.json in the data folder;"),
        ("", "TBX11K_trian", "did you mean 'TBX11K_train'?"),
    ],
)
def test_what_cannot_be_read_is_one_error(annotations_only, monkeypatch, capsys, folder, name, phrase):
    monkeypatch.setattr("sys.argv", [SCRIPT, "--data_path", str(annotations_only / folder), "--list", name])
    assert run_to_exit_code(script.main) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert phrase in told.err


def test_a_split_without_a_box_has_weights_but_no_gradients(tmp_path, capsys):
    write(tmp_path, [0, 0, 0])
    with pytest.raises(script.UserError, match=r"TBX11K_train\.json: no image has a box"):
        script.report(tmp_path, "TBX11K_train", [script.StepLayout(1, 2, 1)], 1, 0)
    script.report(tmp_path, "TBX11K_train", [script.StepLayout(1, 2, 1)], 0, 0)
    assert "| undivided sum         | 0.0%  | -" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["1x2", "0x1x1", "axbxc", "1x2x1x1", "1x-2x1"])
def test_a_layout_is_three_numbers(text):
    with pytest.raises(script.argparse.ArgumentTypeError, match="such as 1x8x2"):
        script.StepLayout.parse(text)


@pytest.mark.data
def test_most_steps_of_the_real_epoch_have_no_box(shared):
    file = shared / "tbx11k/annotations/json/TBX11K_train.json"
    if not file.is_file():
        pytest.skip("no real annotations")
    split = script.load_split(file.parent, file)
    counts = np.diff(split.first_box)
    order = script.ShuffledOrder(split.num_images, 0).of_epoch(0).tolist()
    steps = script.StepLayout(1, 1, 2).micro_batches(order)
    assert np.mean([counts[np.concatenate(s)].sum() == 0 for s in steps]) == pytest.approx(0.83, abs=0.01)
    lines = script.weights_table(counts, order, [script.StepLayout(1, 1, 2)]).splitlines()
    wrong = float(next(line for line in lines if CLAMP in line).split("|")[3].strip(" %"))
    assert wrong == pytest.approx(91.5, abs=1)  # steps of two images with at most one box
