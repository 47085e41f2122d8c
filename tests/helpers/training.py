"""The command line called from within, on a training of a second or two: what the end-to-end tests share."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

import main
from util.distributed.exit_codes import run_to_exit_code

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config/DINO/DINO_tiny_phantom.py"
SMALL = {
    "hidden_dim": 32,
    "nheads": 2,
    "dim_feedforward": 32,
    "num_queries": 20,
    "num_select": 20,
    "nms_iou_threshold": 0.0,
    "dn_number": 5,
    "data_aug_scales": [96, 128],
    "data_aug_max_size": 128,
    "data_aug_scales2_resize": [96],
    "data_aug_scales2_crop": [64, 96],
    "data_eval_scale": 96,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "epochs": 2,
    "lr_drop": [1],
    "num_workers": 0,
    "log_every": 1,
}
ONE_EPOCH = {"epochs": 1, "lr_drop": []}
TRAIN, VAL = 12, 6  # images


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def options(**changes):
    """The --options of a training of a second or two, with changes."""
    return [f"{key}={value}".replace(" ", "") for key, value in {**SMALL, **changes}.items()]


def training(data, folder, *more, config=CONFIG, **changes):
    """The arguments of a training."""
    where = ["--data_path", str(data), "--output_dir", str(folder)]
    return ["-c", str(config), *where, "--device", "cpu", *map(str, more), "--options", *options(**changes)]


def call(*arguments):
    """Run main.py within this process, on one thread: small tensors gain nothing from more."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    with redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, NO_COLOR="1"):
        try:
            code = run_to_exit_code(partial(main.main, [str(a) for a in arguments]))
        except SystemExit as end:
            code = end.code
        finally:
            torch.set_num_threads(threads)
    return Outcome(code, out.getvalue(), err.getvalue())


def call_apart(*command, env=None, cwd=ROOT, timeout=120, preexec_fn=None):
    """Run a Python command in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=preexec_fn,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def torchrun(ranks, *arguments):
    """Run main.py on several CPU ranks."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "main.py"]
    return call_apart(*launch, *arguments, timeout=240)


def load_script(name):
    """A script of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(folder, kind):
    """The rows of a kind in a run's log."""
    lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


OF_THE_CLOCK = ("time", "data", "images_per_second", "seconds", "max_mem_mb")
OF_THE_PROCESS = ("start",)  # rows that tell when a process began, which a run that was not cut off has only one of


def figures(folder, *kinds):
    """The rows of the training, of all its kinds unless said, without what depends on the clock."""
    lines = map(json.loads, (Path(folder) / "log.jsonl").read_text().splitlines())
    kept = (row for row in lines if (row["kind"] in kinds if kinds else row["kind"] not in OF_THE_PROCESS))
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in kept]


def losses(folder):
    """Per step, every figure that does not depend on the clock."""
    return [{k: v for k, v in row.items() if k != "kind"} for row in figures(folder, "train")]


def metrics(folder):
    """The metrics of a report, without what they are of."""
    report = json.loads((Path(folder) / "report.json").read_text())
    return {key: value for key, value in report.items() if key != "evaluated"}


def load(path):
    """A checkpoint's content."""
    return torch.load(path, map_location="cpu", weights_only=True)


def copy_run(source, target):
    """A copy of a run that a test may go on with; checkpoints, which are only ever replaced whole, are shared."""

    def link(a, b):
        return os.link(a, b) if a.endswith(".pth") else shutil.copy2(a, b)

    return Path(shutil.copytree(source, target, copy_function=link))


def assert_same_state(ours, theirs):
    """Weights, averages and moments are bit-equal, the position and what losses are divided by are equal."""
    for part in ("model", "ema"):
        assert ours[part].keys() == theirs[part].keys()
        assert all(torch.equal(ours[part][k], theirs[part][k]) for k in ours[part])
    a, b = ours["optimizer"], theirs["optimizer"]
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    assert all(torch.equal(a["state"][i][k], b["state"][i][k]) for i in a["state"] for k in a["state"][i])
    equal = ("epoch", "window", "step", "skipped", "judged", "best", "config", "denominator")
    assert all(ours[key] == theirs[key] for key in equal)


def assert_refused(outcome, *phrases, code=2):
    """One message, no traceback, and in it all that helps."""
    assert outcome.code == code, outcome.out + outcome.err
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("error: ") == 1, outcome.err
    assert "Traceback" not in outcome.out + outcome.err, outcome.err
    missing = [str(phrase) for phrase in phrases if str(phrase) not in outcome.err]
    assert not missing, f"{missing} not in {outcome.err}"


def snapshot(folder):
    """The content of every file of a folder, to see that nothing was lost."""
    return {str(p.relative_to(folder)): hash(p.read_bytes()) for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def annotations(data, which="train"):
    """The annotation file of a split of the phantom."""
    return data / f"annotations/json/TBX11K_{which}.json"


def first_image(data, which="train"):
    """The file of the first image of a split."""
    return data / "imgs" / json.loads(annotations(data, which).read_text())["images"][0]["file_name"]


def truncate(path):
    """Cut off half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
