"""Optimizer steps of a real training on images of which 91 % have no box, recorded and played to the meters again.

`PYTHONPATH=. python tests/helpers/recorded_steps.py` makes steps.json anew, in minutes: what the meters get in 400
steps of a training of `end_to_end.SMALL` sizes on a phantom, after it has begun to learn.
"""

import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from datasets.phantom.write import make_phantom
from models.losses import criterion
from models.losses.events import EVENTS
from tests.helpers import training as end_to_end
from tests.helpers.references import official_meters as old_meters
from util.base.launcher import ProcessInfo
from util.detection.batch import Batch, Window
from util.runlog.class_skill import FocalSettings
from util.runlog.run_log import RunLog
from util.runlog.training_log import TrainingLog

GOLDEN = Path(__file__).parents[1] / "golden/steps.json"
IMAGES, EPOCHS = 200, 20
KEPT = slice(1200, 1600)  # steps
CHANGES = {
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "focal_alpha": 0.75,
    "warmup_steps": 20,
    "bootstrap_draws": 0,
    "log_every": 10,
}
LOSSES = ("loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm", "clipped_share")
SUMS = (*EVENTS, "loss_with_boxes", "loss_without_boxes")
OLD = ("class_error", "cardinality_error_unscaled")
CPU, ALONE = torch.device("cpu"), ProcessInfo(0, 1, 0)


def record(folder, *, images=IMAGES, epochs=EPOCHS, kept=KEPT):
    """Train, and return what the meters got and what the official figures are of the same outputs."""
    make_phantom(folder / "data", train=images, val=4, seed=0, positive_fraction=0.09, size=128)
    columns = {name: [] for name in (*LOSSES, *SUMS, *OLD, "boxes")}
    count, add = criterion.count_events, TrainingLog.add

    def count_too(prediction, targets, assignment, labels):
        logits = prediction.logits.detach()
        columns["class_error"].append(old_meters.class_error(logits, assignment, labels))
        columns["cardinality_error_unscaled"].append(old_meters.cardinality_error(logits, targets))
        return count(prediction, targets, assignment, labels)

    def add_too(log, window, num_boxes, losses, events, **position):
        for name in (*LOSSES, *SUMS):
            columns[name].append((losses | events)[name].item())
        targets = [t for batch in window.batches for t in batch.targets]
        columns["boxes"].append([boxes_of(t) for t in targets])
        assert num_boxes == max(1, sum(map(len, columns["boxes"][-1])))
        add(log, window, num_boxes, losses, events, **position)

    changes = {**CHANGES, "epochs": epochs, "eval_every": epochs, "lr_drop": [epochs - 1]}
    with patch.object(criterion, "count_events", count_too), patch.object(TrainingLog, "add", add_too):
        outcome = end_to_end.call(*end_to_end.training(folder / "data", folder / "run", **changes))
    assert outcome.code == 0, outcome.err
    focal = {"alpha": CHANGES["focal_alpha"], "gamma": 2.0, "num_queries": end_to_end.SMALL["num_queries"]}
    steps = {name: [short(value) for value in column[kept]] for name, column in columns.items()}
    return {"focal": focal, "category_ids": [1, 2, 3], "steps": steps}


def short(value):
    """A number as it stands in the file."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def boxes_of(target):
    """[label, width, height] of each box of an image."""
    sides = [[round(side, 3) for side in box] for box in target["boxes"][:, 2:].tolist()]
    return [[label, *side] for label, side in zip(target["labels"].tolist(), sides, strict=True)]


def window_of(images):
    """A step's window as the meters see it: labels and sides of boxes."""
    targets = [
        {
            "labels": torch.tensor([label for label, *_ in boxes], dtype=torch.long),
            "boxes": torch.tensor([[0.5, 0.5, w, h] for _, w, h in boxes]).reshape(-1, 4),
        }
        for boxes in images
    ]
    return Window([Batch(torch.zeros(len(images), 3, 1, 1), torch.zeros(len(images), 1, 1), targets)])


def old_lines(recorded, *, every):
    """What the official meters print, a line every so many steps."""
    meters, columns = old_meters.OldMeters(), recorded["steps"]
    number = len(columns["loss"])
    lines = []
    for i in range(number):
        meters.add({name: columns[name][i] for name in ("class_error", *LOSSES[:4], "cardinality_error_unscaled")})
        if (i + 1) % every == 0:
            lines.append(meters.line(i + 1, number))
    return lines


def new_lines(recorded, folder, *, every, is_verbose=False):
    """What the meters of this repository print, and their rows."""
    folder.mkdir()
    columns = recorded["steps"]
    number = len(columns["loss"])
    log = TrainingLog(
        RunLog(folder), every, number, CPU, ALONE, recorded["category_ids"], FocalSettings(**recorded["focal"])
    )
    log.is_verbose = is_verbose
    log.start_epoch(0)
    for i in range(number):
        losses, events = ({name: torch.tensor(columns[name][i]) for name in names} for names in (LOSSES, SUMS))
        window = window_of(columns["boxes"][i])
        log.add(window, max(1.0, window.num_boxes), losses, events, step=i + 1, rates={"lr": 1e-3})
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return (folder / "info.txt").read_text().splitlines(), rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as room:
        content = json.dumps(record(Path(room)), separators=(",", ":"))
    GOLDEN.write_text(content.replace('],"', '],\n"') + "\n")
