"""Train with known faults, and list whether the doctor names them.

    python scripts/measure/fault_table.py --output_dir logs/faults

Each run is a real training of config/DINO/DINO_tiny_phantom.py on a small phantom, with one thing broken on purpose. It
ends after its last epoch, or as soon as the doctor calls it failing. Runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
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
from models import dino
from util.base.console import echo
from util.base.processes import usable_cores
from util.config.command_line import Parser, hide_aliases
from util.doctor.diagnosis import diagnose
from util.doctor.symptoms import FAILING, NOTE
from util.runlog.history import history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config/DINO/DINO_tiny_phantom.py"
PHANTOM = ("--train", "360", "--val", "90", "--seed", "0", "--positive_fraction", "0.6")
OPTIONS = {"epochs": 6, "bootstrap_draws": 0, "num_workers": 0, "on_failing": "stop"}
TRAIN_FILE = "annotations/json/TBX11K_train.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One row of the table: what is broken, and the causes of which the doctor must name one in its first two."""

    causes: tuple[str, ...]  # none: the run is healthy
    options: dict[str, Any] = field(default_factory=dict)
    damage: Callable[[Record, np.random.Generator], None] | None = None  # to the training annotations
    broken: Callable[[int], Any] | None = None  # a context in which the program runs, by seed


def shuffle_boxes(content: Record, rng: np.random.Generator) -> None:
    """Every image gets the boxes of another one."""
    ids = [image["id"] for image in content["images"]]
    other = dict(zip(ids, rng.permutation(ids).tolist(), strict=True))
    for box in content["annotations"]:
        box["image_id"] = other[box["image_id"]]


def double_boxes(content: Record, _rng: np.random.Generator) -> None:
    """Boxes twice as wide and high, about their centres, cut off at the border."""
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
    """Every box gets the category of another one."""
    categories = rng.permutation([box["category_id"] for box in content["annotations"]]).tolist()
    for box, category in zip(content["annotations"], categories, strict=True):
        box["category_id"] = category


def remove_boxes(content: Record, _rng: np.random.Generator) -> None:
    """No image has a box."""
    content["annotations"] = []


def high_prior(_seed: int) -> Any:
    """Every query starts with a score of .99 instead of .01."""
    return patch.object(dino, "PRIOR", 0.99)


@contextmanager
def after_building(change: Callable[[nn.Module], None]) -> Iterator[None]:
    """Do something to the network as soon as it is there."""
    build = program.build_model

    def build_and_change(*arguments: Any) -> Any:
        model, *rest = build(*arguments)
        change(model)
        return model, *rest

    with patch.object(program, "build_model", build_and_change):
        yield


def frozen_head(_seed: int) -> Any:
    """The class heads keep their first weights."""

    def freeze(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if "class_embed" in name:
                parameter.requires_grad_(False)

    return after_building(freeze)


def not_a_number(seed: int) -> Any:
    """At one forward pass of the second epoch the images are NaN."""
    moment = int(np.random.default_rng(seed).integers(200, 340))

    def poison(model: nn.Module) -> None:
        calls = iter(range(10**9))

        def hook(module: nn.Module, inputs: tuple) -> Any:
            if module.training and next(calls) == moment:
                return (inputs[0] * torch.nan, *inputs[1:])
            return None

        model.register_forward_pre_hook(hook)

    return after_building(poison)


FAULTS = {
    "healthy, focal_alpha .75": Fault((), {"focal_alpha": 0.75}),
    "healthy, focal_alpha .25": Fault((), {"focal_alpha": 0.25}),
    "boxes of other images": Fault(("labels_do_not_fit_images",), damage=shuffle_boxes),
    "categories shuffled": Fault(("categories_not_learned",), damage=shuffle_categories),
    "boxes scaled by 2": Fault(("train_and_val_boxes_differ",), damage=double_boxes),
    "learning rate x 100": Fault(("learning_rate_too_high",), {"lr": 0.1, "lr_backbone": 0.1}),
    "learning rate 0": Fault(("learning_rate_zero",), {"lr": 0.0, "lr_backbone": 0.0}),
    "prior .99": Fault(("predicts_everything",), broken=high_prior),
    "class loss weight 0": Fault(("class_head_not_learning",), {"cls_loss_coef": 0.0}),
    "all images empty": Fault(("no_boxes",), damage=remove_boxes),
    "class heads frozen": Fault(("class_head_not_learning",), broken=frozen_head),
    "NaN at one step": Fault(("not_finite",), broken=not_a_number),
}


def slug(name: str, seed: int) -> str:
    """A folder's name for a run."""
    return "".join(c if c.isalnum() else "_" for c in f"{name}_{seed}")


def damaged_copy(source: Path, target: Path, fault: Fault, seed: int) -> Path:
    """The phantom with damaged training annotations; images are shared."""
    if fault.damage is None:
        return source
    for file in sorted(source.rglob("*")):
        if file.is_file() and not (target / file.relative_to(source)).exists():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target / file.relative_to(source))
    content = json.loads((source / TRAIN_FILE).read_text())
    fault.damage(content, np.random.default_rng(seed))
    (target / TRAIN_FILE).unlink()
    (target / TRAIN_FILE).write_text(json.dumps(content))
    return target


def run_one(name: str, seed: int, data: Path, folder: Path) -> None:
    """One training in this process."""
    torch.set_num_threads(1)
    fault = FAULTS[name]
    data = damaged_copy(data, folder.with_name(f"{folder.name}_data"), fault, seed)
    options = [f"{key}={value}" for key, value in {**OPTIONS, **fault.options, "seed": seed}.items()]
    arguments = ["-c", str(CONFIG), "--data_path", str(data), "--output_dir", str(folder), "--device", "cpu"]
    with fault.broken(seed) if fault.broken else nullcontext():
        program.main([*arguments, "--options", *options])


def main() -> None:
    """Run what is missing."""
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
    """Markdown: what the doctor says of every run, its first two causes, and whether the fault is among them."""
    lines = [
        "| what is broken | seed | verdict | since epoch | first two causes | named | AP50 | seconds |",
        "|---" * 8 + "|",
    ]
    for name in faults:
        for seed in seeds:
            folder = out / slug(name, seed)
            if (folder / ROWS).exists():
                lines.append(line_of(name, seed, folder))
    return "\n".join(lines)


def line_of(name: str, seed: int, folder: Path) -> str:
    """One run in the table."""
    history = history_of(read_rows(folder / ROWS))
    found = diagnose(history)
    fault = FAULTS[name]
    first = [cause.name for cause in found.causes][:2]
    is_named = any(c.name in fault.causes and c.level != NOTE for c in found.causes[:2])  # healthy runs get notes, too
    answer = ("yes" if is_named else "NO") if fault.causes else "FALSE ALARM" if found.verdict == FAILING else "-"
    ap50 = max((value for _, value in history.judged("all/agnostic/AP50")), default=0.0)
    seconds = json.loads(folder.with_name(f"{folder.name}.done").read_text())["seconds"]
    cells = [
        name,
        seed,
        found.verdict,
        found.epoch,
        ", ".join(first) or "none",
        answer,
        f"{ap50:.3f}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def launch(out: Path, name: str, seed: int) -> None:
    """One run in a process of its own, unless it is done."""
    folder = out / slug(name, seed)
    done = out / f"{folder.name}.done"
    if done.exists():
        return
    start = time.monotonic()
    command = [sys.executable, __file__, "--output_dir", str(out), "--only", name, str(seed)]
    with (out / f"{folder.name}.out").open("w") as console:
        code = subprocess.run(command, stdout=console, stderr=subprocess.STDOUT, check=False).returncode
    done.write_text(json.dumps({"exit_code": code, "seconds": time.monotonic() - start}))
    echo(f"{name}, seed {seed}: exit code {code} after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    run_program(main)
