"""Every part of a checkpoint is what it should be, or is named with what was expected and what came."""

import pytest
import torch

from tests.helpers.files.hostile_checkpoints import TENSORS, VALUES, deep, endless
from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.schema import PARTS, problem_of
from util.training.checkpoints.weights import load_strictly, load_what_fits

SUMS = {"names": ["loss"], "total": [1.5], "steps": 2}
METER = {"losses": SUMS, "events": SUMS, "counts": {"images": 3}, "step_losses": [0.5, 1.0]}
RANK = {"schema": 2, "recent": METER, "epoch": METER, "told": 1, "waited": 0.5, "seconds": 3.0, "seconds_since": 1.0}
MOMENT = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
GOOD = {
    "config": {"num_classes": 4, "lr_drop": (30, 40), "amp": "off", "matcher_focal_alpha": None, "lr": 1e-4},
    "model_keys": ["num_classes"],
    "cut": [2, 2, 1],
    "num_images": 12,
    "category_ids": [1, 2],
    "category_names": {"1": "A", "2": "B"},
    "model": {"w": torch.zeros(2)},
    "ema": {"w": torch.zeros(2)},
    "optimizer": {"state": {0: MOMENT}, "param_groups": [{"params": [0], "lr": 1e-4}]},
    "scaler": {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 0},
    "denominator": {"boxes_per_step": 2.5},
    "epoch": 1,
    "window": 1,
    "step": 4,
    "skipped": 0,
    "attention": "cpp",
    "version": "1.0.0",
    "collected": [RANK, RANK],
    "rows": 900,
    "judged": 1,
    "best": {"metric": "AP", "value": 0.5, "epoch": 0},
    "operating_point": {"rule": "youden", "target": 0.9, "threshold": 0.3},
}
EMPTY: dict = {"ema": None, "scaler": {}, "denominator": {"boxes_per_step": None}, "collected": [], "best": {}}
# what may be: None where a part need not be there, numbers that are as good as the ones above
FINE = {(part, "None") for part, spec in PARTS.items() if spec.may_be_none} | {
    *((part, "empty") for part in ("model_keys", "collected")),
    ("config", "dict"),
    ("attention", "text"),
    ("version", "text"),
}


def test_what_is_written_is_right():
    assert problem_of(GOOD) is None
    assert problem_of({**GOOD, **EMPTY, "operating_point": {}}) is None
    assert GOOD.keys() | {"class_ids"} == PARTS.keys()
    mapped = {"category_ids": [7, 2**62], "category_names": {"7": "A", str(2**62): "B"}, "class_ids": [7, 2**62]}
    assert problem_of({**GOOD, **mapped, "config": {"num_classes": 2}}) is None


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_named_when_it_is_something_else(part):
    values = {**VALUES, "endless": endless(), "deep": deep()}
    for label, value in values.items():
        problem = problem_of({**GOOD, part: value})
        assert (problem is None) == ((part, label) in FINE), (label, problem)
        if problem is not None:
            assert problem.startswith(part), problem
            assert ", expected " in problem
            assert len(problem) < 300


@pytest.mark.parametrize("label", [k for k in TENSORS if k not in ("empty", "whole numbers", "nan", "other")])
@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_a_tensor_that_is_not_plainly_there_is_named(part, label):
    bad = TENSORS[label](torch.ones(3, 2))
    content = {"state": {0: {"exp_avg": bad}}, "param_groups": []} if part == "optimizer" else {"w": bad}
    problem = problem_of({**GOOD, part: content})
    assert problem.startswith(f"{part}.state.0.exp_avg is a" if part == "optimizer" else f"{part}.w is a"), problem
    assert problem.endswith("expected a dense tensor of numbers, all of them in the file")


def test_tensors_of_an_official_checkpoint_are_looked_at_too_and_its_other_parts_are_not():
    assert problem_of({"model": GOOD["model"], "scaler": None, "best": 0.3, "epoch": 3}) is None
    assert "model.w is a" in problem_of({"model": {"w": torch.ones(2).to("meta")}})
    assert "w is a" in problem_of({"w": torch.zeros(1).expand(10**6, 10**6)})
    for epoch in (-1, None, torch.tensor(3), "x"):  # tools of others write these
        assert problem_of({"model": GOOD["model"], "epoch": epoch, "step": 1.5}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_ids": [1, 3]}, "category_names name 1, 2, expected the category_ids [1, 3]"),
        ({"category_ids": [1, 9], "category_names": None}, "category_ids reach 9, expected less than num_classes = 4"),
        ({"config": {"lr": 10**5000}}, "config is a dict of 1 entries (lr), expected a dict of plain values"),
        ({"class_ids": [2, 1]}, "class_ids is a list of 2 entries, expected a list of rising whole numbers"),
        ({"class_ids": [1, 2]}, "class_ids are [1, 2], expected those of its categories, 4 as num_classes"),
        ({"class_ids": [1, 3, 4, 5]}, "class_ids are [1, 3, 4, 5], expected those of its categories"),
        ({"category_ids": [1, 2**63]}, "category_ids is a list of 2 entries, expected a list of whole numbers"),
        ({"window": 5}, "window is 5, expected at most step = 4"),
        ({"skipped": 5}, "skipped is 5, expected at most step = 4"),
        ({"collected": [RANK, {**RANK, "recent": {**METER, "step_losses": []}}]}, "collected is a list of 2 entries"),
        ({"collected": [{**RANK, "recent": {**METER, "losses": {**SUMS, "total": []}}}]}, "collected is a list of 1"),
    ],
)
def test_parts_that_contradict_each_other_are_named(change, words):
    assert words in problem_of({**GOOD, **change})


def test_what_an_older_version_collected_is_not_looked_at():
    assert problem_of({**GOOD, "collected": [{"recent": 3}]}) is None


def test_the_message_names_file_and_part(tmp_path):
    torch.save({**GOOD, "cut": [0, 0, 0]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.pth")
    words = "cut is a list of 3 entries, expected three whole numbers from 1 on. Copy it again, or take another one"
    assert str(caught.value) == f"{tmp_path / 'a.pth'}: cannot be used: {words}"


def test_a_tensor_of_terabytes_is_refused_before_memory_is_taken(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1).expand(10**6, 10**6)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"model\.weight is a tensor of 1000000 x 1000000 that repeats 4 bytes"):
        load(tmp_path / "a.pth")


def test_whole_numbers_are_no_weights(tmp_path):
    model = torch.nn.Linear(2, 2)
    weights = {k: v.to(torch.int64) for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="2 of other numbers: weight int64 instead of float32"):
        load_strictly(model, weights, tmp_path)
    with pytest.raises(CheckpointError, match=r"only 0 of the model's 2 tensors fit .*int64 -> float32: new"):
        load_what_fits(model, weights, tmp_path)
