"""Train with known faults, and list whether the doctor names them.

    python scripts/measure/fault_table.py --output_dir logs/faults

Each run is a real training of config/DINO/DINO_tiny_phantom.py on a small phantom, with one thing broken on purpose. It
ends after its last epoch, or as soon as the doctor calls it failing. Runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np
import torch
from torch import nn

import main as program
from util.base.console import echo
from util.base.processes import usable_cores
from util.config.command_line import Parser, hide_aliases
from util.doctor import FAILING, NOTE, diagnose
from util.runlog.history import history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS
from util.study.tables import markdown_table

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config/DINO/DINO_tiny_phantom.py"
PHANTOM = ("--train", "360", "--val", "90", "--seed", "0", "--positive_fraction", "0.6")
OPTIONS = {"epochs": 6, "bootstrap_draws": 0, "num_workers": 0, "on_failing": "stop"}
TRAIN_FILE = "annotations/json/TBX11K_train.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One row of the table: a fault, and the causes of which the doctor must name one among its first two."""

    causes: tuple[str, ...]  # empty: the run is healthy
    options: dict[str, Any] = field(default_factory=dict)
    damage: Callable[[Record, np.random.Generator], None] | None = None  # changes the training annotations
    change: Callable[[nn.Module, int], None] | None = None  # changes the network before training, by seed


def shuffle_boxes(content: Record, rng: np.random.Generator) -> None:
    """Assign the boxes of every image to another image."""
    ids = [image["id"] for image in content["images"]]
    other = dict(zip(ids, rng.permutation(ids).tolist(), strict=True))
    for box in content["annotations"]:
        box["image_id"] = other[box["image_id"]]


def double_boxes(content: Record, _rng: np.random.Generator) -> None:
    """Enlarge boxes by 2 around their centres, clipped to the image."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for box in content["annotations"]:
        x, y, w, h = box["bbox"]
        width, height = sizes[box["image_id"]]
        x1 = max(0, x - w / 2)
        y1 = max(0, y - h / 2)
        x2 = min(width, x + 1.5 * w)
        y2 = min(height, y + 1.5 * h)
        box["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        box["area"] = (x2 - x1) * (y2 - y1)


def shuffle_categories(content: Record, rng: np.random.Generator) -> None:
    """Shuffle the categories of the boxes."""
    categories = rng.permutation([box["category_id"] for box in content["annotations"]]).tolist()
    for box, category in zip(content["annotations"], categories, strict=True):
        box["category_id"] = category


def remove_boxes(content: Record, _rng: np.random.Generator) -> None:
    """Remove all boxes."""
    content["annotations"] = []


def raise_prior(model: nn.Module, _seed: int) -> None:
    """Start all queries with a score of .99 instead of .01."""
    for name, parameter in model.named_parameters():
        if "class_embed" in name and name.endswith("bias"):
            nn.init.constant_(parameter, math.log(0.99 / 0.01))


def freeze_heads(model: nn.Module, _seed: int) -> None:
    """Freeze the class heads."""
    for name, parameter in model.named_parameters():
        if "class_embed" in name:
            parameter.requires_grad_(False)


def poison_one_step(model: nn.Module, seed: int) -> None:
    """Set the images of one forward pass of the second epoch to NaN."""
    moment = int(np.random.default_rng(seed).integers(200, 340))
    calls = itertools.count()

    def hook(module: nn.Module, inputs: tuple) -> Any:
        if module.training and next(calls) == moment:
            return (inputs[0] * torch.nan, *inputs[1:])
        return None

    model.register_forward_pre_hook(hook)


FAULTS = {
    "healthy, focal_alpha .75": Fault((), {"focal_alpha": 0.75}),
    "healthy, focal_alpha .25": Fault((), {"focal_alpha": 0.25}),
    "boxes of other images": Fault(("labels_do_not_fit_images",), damage=shuffle_boxes),
    "categories shuffled": Fault(("categories_not_learned",), damage=shuffle_categories),
    "boxes scaled by 2": Fault(("train_and_val_boxes_differ",), damage=double_boxes),
    "learning rate x 100": Fault(("learning_rate_too_high",), {"lr": 0.1, "lr_backbone": 0.1}),
    "learning rate 0": Fault(("learning_rate_zero",), {"lr": 0.0, "lr_backbone": 0.0}),
    "prior .99": Fault(("predicts_everything",), change=raise_prior),
    "class loss weight 0": Fault(("class_head_not_learning",), {"cls_loss_coef": 0.0}),
    "all images empty": Fault(("no_boxes",), damage=remove_boxes),
    "class heads frozen": Fault(("class_head_not_learning",), change=freeze_heads),
    "NaN at one step": Fault(("not_finite",), change=poison_one_step),
}


def slug(name: str, seed: int) -> str:
    """Folder name of a run."""
    return "".join(c if c.isalnum() else "_" for c in f"{name}_{seed}")


def damaged_copy(source: Path, target: Path, fault: Fault, seed: int) -> Path:
    """A copy of the phantom with damaged training annotations and hard links to the images."""
    if fault.damage is None:
        return source
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)
    content = json.loads((source / TRAIN_FILE).read_text(encoding="utf-8"))
    fault.damage(content, np.random.default_rng(seed))
    (target / TRAIN_FILE).unlink()
    (target / TRAIN_FILE).write_text(json.dumps(content), encoding="utf-8")
    return target


def run_one(name: str, seed: int, data: Path, folder: Path) -> None:
    """Train one run in this process."""
    torch.set_num_threads(1)
    fault = FAULTS[name]
    data = damaged_copy(data, folder.with_name(f"{folder.name}_data"), fault, seed)
    options = [f"{key}={value}" for key, value in {**OPTIONS, **fault.options, "seed": seed}.items()]
    arguments = ["-c", str(CONFIG), "--data_path", str(data), "--output_dir", str(folder), "--device", "cpu"]
    build_model = program.build_model

    def build_and_change(*arguments: Any) -> Any:
        model, *rest = build_model(*arguments)
        if fault.change:
            fault.change(model, seed)
        return model, *rest

    with patch.object(program, "build_model", build_and_change):
        program.main([*arguments, "--options", *options])


def main() -> None:
    """Train the missing runs, and print the table."""
    parser = Parser(__doc__)
    add = parser.add_argument
    output = "folder for the phantom and the runs"
    hide_aliases(add("--output_dir", "--out", type=Path, required=True, help=output))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME")
    hide_aliases(add("--workers", "--jobs", type=int, default=usable_cores(), help="runs at a time"))
    add("--only", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = args.output_dir
    data = out / "phantom"
    if args.only:
        name = args.only[0]
        seed = int(args.only[1])
        run_one(name, seed, data, out / slug(name, seed))
        return
    subprocess.run([sys.executable, ROOT / "scripts/make_phantom.py", "--output_dir", data, *PHANTOM], check=True)
    runs = [(name, seed) for seed in args.seeds for name in args.faults]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda run: launch(out, *run), runs))
    echo(table(out, args.faults, args.seeds))


def table(out: Path, faults: list[str], seeds: list[int]) -> str:
    """Verdict and first two causes of every run, and whether the fault is among them."""
    head = ["fault", "seed", "verdict", "since epoch", "first two causes", "named", "AP50", "seconds"]
    runs = [(name, seed) for name in faults for seed in seeds if (out / slug(name, seed) / ROWS).exists()]
    return markdown_table(head, [table_line(name, seed, out / slug(name, seed)) for name, seed in runs])


def table_line(name: str, seed: int, folder: Path) -> list[object]:
    """The cells of one run."""
    history = history_of(read_rows(folder / ROWS))
    diagnosis = diagnose(history)
    fault = FAULTS[name]
    first = diagnosis.causes[:2]
    is_named = any(cause.name in fault.causes and cause.level != NOTE for cause in first)  # healthy runs get notes, too
    answer = (
        ("yes" if is_named else "NO") if fault.causes else "FALSE POSITIVE" if diagnosis.verdict == FAILING else "-"
    )
    causes = ", ".join(cause.name for cause in first) or "none"
    ap50 = max((value for _, value in history.evaluated("all/agnostic/AP50")), default=0.0)
    seconds = json.loads(folder.with_name(f"{folder.name}.done").read_text(encoding="utf-8"))["seconds"]
    return [name, seed, diagnosis.verdict, diagnosis.epoch, causes, answer, f"{ap50:.3f}", f"{seconds:.0f}"]


def launch(out: Path, name: str, seed: int) -> None:
    """Train one run in a separate process, unless it is done."""
    folder = out / slug(name, seed)
    done = out / f"{folder.name}.done"
    if done.exists():
        return
    start = time.monotonic()
    command = [sys.executable, __file__, "--output_dir", str(out), "--only", name, str(seed)]
    with (out / f"{folder.name}.out").open("w", encoding="utf-8") as console:
        code = subprocess.run(command, stdout=console, stderr=subprocess.STDOUT, check=False).returncode
    done.write_text(json.dumps({"exit_code": code, "seconds": time.monotonic() - start}), encoding="utf-8")
    echo(f"{name}, seed {seed}: exit code {code} after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    run_program(main)
