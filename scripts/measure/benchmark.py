#!/usr/bin/env python
"""Time a training step, inference or deformable attention, part by part, and measure its memory.

    python scripts/measure/benchmark.py -c CONFIG [--task train|inference|attention] [--batch_size N] [--size H[xW]]
    python scripts/measure/benchmark.py -c CONFIG --compare "attn_backend=torch" "amp=bf16" [--output F]
    python scripts/measure/benchmark.py -c CONFIG --profile trace.json

Knobs are set for all settings with --options, and in addition for one setting of --compare: settings then run
alternately in one process, and the first is the baseline. Images are noise, weights come from the seed, nothing is
downloaded. On a CPU the unit is processor time of all threads, which other programs affect least; on a GPU device
time. Times are medians with quartiles. Parts are timed in separate repeats, and their shares add up to 100. "kept" is
what autograd saves in a part for the backward pass; "memory" is the peak of a fresh process minus its memory before the
network was built: weights, gradients, moments and activations. "differs by" compares the results of the first repeat,
losses or scores, with the baseline; half precision differs by its own rounding.
"""

import argparse
import gc
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import torch

from scripts.measure.machine import describe_machine
from scripts.measure.stopwatch import Clock, Lap, PartPath, Spread, Stopwatch
from scripts.measure.tables import Measurement, as_rows, report
from scripts.measure.workloads import Case, Workload, build_workloads, count_operations
from util.base.console import Progress, echo
from util.base.errors import UserError
from util.base.files import write_atomically
from util.base.memory import peak_resident_bytes, resident_bytes
from util.config import Config, flatten, load_config
from util.config.command_line import Parser, add_config_arguments, add_device_argument, hide_aliases
from util.distributed.collectives import choose_device_type

MEGABYTE = 2**20
PART_REPEATS = 5
TOP_OPERATORS = 15


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(choose_device_type(args.device))
    settings = args.compare or [""] if args.memory_of is None else [args.memory_of]
    configs = [load_config(args.config_file, setting_options(args, setting)) for setting in settings]
    case = Case(args.task, args.batch_size, parse_size(args.size, configs[0]), args.num_boxes, device)
    if args.memory_of is not None:
        echo(json.dumps(memory_here(configs[0], case)))
        return
    command = shlex.join(["python", *sys.argv])
    machine = describe_machine(device)
    echo(f"{headline(args, case)}\n{machine}\n{command}")
    works = [build_workloads(config, case) for config in configs]
    for setting, own in zip(settings, works, strict=True):
        echo("\n".join(f"{setting + ': ' if setting else ''}{line}" for line in own[0].description.splitlines()))
    found = measure(works, settings, args)
    memories = {setting: None if args.no_memory else memory_apart(args, setting) for setting in settings}
    for row in found:
        row.memory = memories[row.setting]
    operations = count_operations(configs[0], case)
    echo(report(found, operations, case, is_comparison=args.compare is not None))
    if args.profile:
        profile(works[0], device, args.profile)
    if args.output:
        about = {"command": command, "machine": machine, "task": args.task, "batch": args.batch_size, "size": case.size}
        about |= {"boxes": args.num_boxes, "threads": torch.get_num_threads(), "config": flatten(configs[0])}
        content = {**about, "rows": as_rows(found, operations)}
        write_atomically(args.output, lambda file: file.write(json.dumps(content, indent=1).encode()))


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add_config_arguments(parser)
    add("--task", choices=["train", "inference", "attention"], default="train", help="default: train")
    hide_aliases(add("--batch_size", "--batch", type=int, default=1, metavar="N", help="images (default: 1)"))
    add("--size", metavar="H[xW]", help="pixels (default: a square of data_eval_scale)")
    hide_aliases(add("--num_boxes", "--boxes", type=int, default=2, metavar="N", help="on each image (default: 2)"))
    add_device_argument(parser)
    add("--threads", type=int, metavar="N", help="of the processor (default: as PyTorch chooses)")
    add("--warmup", type=int, default=2, metavar="N", help="repeats before the first that counts (default: 2)")
    add("--repeats", type=int, default=10, metavar="N", help="that count (default: 10)")
    add("--compare", nargs="+", metavar="SETTING", help='two or more, each "KEY=VALUE ..."')
    add("--no_memory", action="store_true", help="do not start a process per setting to measure its memory")
    add("--profile", type=Path, metavar="FILE", help="one repeat under the profiler: a Chrome trace, and a table")
    hide_aliases(add("--output", "--json", type=Path, metavar="FILE", help="JSON file of all measurements"))
    add("--memory_of", metavar="SETTING", help=argparse.SUPPRESS)  # what the fresh process is started with
    args = parser.parse_args(arguments)
    if min(args.batch_size, args.repeats) < 1 or min(args.warmup, args.num_boxes) < 0 or (args.threads or 1) < 1:
        parser.error("--batch_size, --repeats and --threads must be at least 1, --warmup and --num_boxes at least 0")
    if args.compare is not None and (len(args.compare) < 2 or args.profile):
        parser.error("--compare takes two settings or more, and no --profile")
    return args


def setting_options(args: argparse.Namespace, setting: str) -> list[str]:
    """The options of a setting; later ones win, and backbone weights are never looked for."""
    return [*args.options, *shlex.split(setting), "backbone_weights='none'"]


def parse_size(text: str | None, config: Config) -> tuple[int, int]:
    """(h, w) pixels.

    Raises:
        UserError: it is not H or HxW with sides of at least 32 pixels.
    """
    sides = (text or str(config.data.data_eval_scale)).lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) >= 32 for side in sides):
        raise UserError(f"--size {text}: expected H or HxW with sides of at least 32 pixels, such as 512 or 480x640")
    return int(sides[0]), int(sides[-1])


def headline(args: argparse.Namespace, case: Case) -> str:
    """What is measured, in one line."""
    options = f", {' '.join(args.options)}" if args.options else ""
    h, w = case.size
    return f"{args.config_file.name}: {case.task}, {case.batch} x {h} x {w} pixels, {case.boxes} boxes each{options}"


def measure(works: list[list[Workload]], settings: list[str], args: argparse.Namespace) -> list[Measurement]:
    """Time each workload in all settings alternately, with changing order; then its parts."""
    has_parts = len(settings) == 1 and works[0][0].timed is not None
    per_work = 1 + args.warmup + args.repeats + (PART_REPEATS + 2 if has_parts else 0)
    progress = Progress("benchmark", per_work * len(works[0]) * len(settings), "repeats")
    clock = Clock(works[0][0].device_type)
    found = []
    gc.collect()
    for same in zip(*works, strict=True):
        results = []
        for work in same:
            work.prepare()
            results.append(work.run())
            for _ in range(args.warmup):
                work.run()
        progress.advance((1 + args.warmup) * len(same))
        laps: list[list[Lap]] = [[] for _ in same]
        for turn in range(args.repeats):
            for i in sorted(range(len(same)), reverse=bool(turn % 2)):
                same[i].prepare()
                laps[i].append(clock.lap(same[i].run))
                progress.advance()
        parts = parts_of(same[0], clock, progress) if len(settings) == 1 else []
        found += [
            Measurement(work.name, setting, own, result.detach().float().cpu(), parts)
            for work, setting, own, result in zip(same, settings, laps, results, strict=True)
        ]
    progress.close()
    return found


def parts_of(work: Workload, clock: Clock, progress: Progress) -> list[dict[str, Any]]:
    """Milliseconds, share and kept bytes of each part, outer before inner; "rest" is the time outside of all parts."""
    if work.timed is None:
        return []
    watch = Stopwatch(clock)
    repeats: list[dict[PartPath, float]] = []
    with work.timed(watch):
        with watch.counting(work.known):
            work.run()
        watch.milliseconds()
        work.run()
        watch.milliseconds()
        progress.advance(2)
        for _ in range(PART_REPEATS):
            lap = clock.lap(work.run)
            repeats.append({(): lap.headline, **watch.milliseconds()})
            progress.advance()
    return with_shares(repeats, watch.kept)


def with_shares(repeats: list[dict[PartPath, float]], kept: dict[PartPath, int]) -> list[dict[str, Any]]:
    """The rows of the table from the milliseconds of each repeat; the empty path is the whole."""
    paths = list(dict.fromkeys(path for times in repeats for path in times))
    for parent in paths:
        if children := [path for path in paths if path and path[:-1] == parent]:
            rest = (*parent, "rest")
            kept[rest] = kept.get(parent, 0) - sum(kept.get(path, 0) for path in children)
            for times in repeats:
                times[rest] = times[parent] - sum(times.get(path, 0.0) for path in children)
    whole = sum(times[()] for times in repeats)
    rows = []
    for path in in_order(list(dict.fromkeys(path for times in repeats for path in times)), ()):
        values = [times.get(path, 0.0) for times in repeats]
        share = 100 * sum(values) / whole
        rows.append({"path": path, "ms": asdict(Spread.of(values)), "share": share, "kept_bytes": kept.get(path, 0)})
    return rows


def in_order(paths: list[PartPath], parent: PartPath) -> list[PartPath]:
    """The parts inside a part, each followed by its inner parts."""
    inner = [path for path in paths if path and path[:-1] == parent]
    return [p for path in inner for p in (path, *in_order(paths, path))]


def memory_apart(args: argparse.Namespace, setting: str) -> dict[str, float]:
    """Run `memory_here` in a fresh process.

    Raises:
        UserError: that process fails; its message is passed on.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "-c", str(args.config_file), "--task", args.task]
    command += ["--batch_size", str(args.batch_size), "--num_boxes", str(args.num_boxes), "--device", args.device]
    command += [*(["--size", args.size] if args.size else []), "--threads", str(torch.get_num_threads())]
    command += [*(["--options", *args.options] if args.options else []), f"--memory_of={setting}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise UserError(f"memory of {setting or 'the setting'}: {last[0].removeprefix('error: ')}")
    return json.loads(done.stdout.splitlines()[-1])


def memory_here(config: Config, case: Case) -> dict[str, float]:
    """Peak memory of two repeats above that before the network was built, and the latter, in megabytes.

    On a GPU device memory, on a CPU resident memory of this process.
    """
    before = 0 if case.device.type == "cuda" else resident_bytes() or 0
    for work in build_workloads(config, case):
        work.prepare()
        for _ in range(2):
            work.run()
    peak = torch.cuda.max_memory_allocated() if case.device.type == "cuda" else peak_resident_bytes()
    return {"peak_mb": (peak - before) / MEGABYTE, "before_mb": before / MEGABYTE}


def profile(works: list[Workload], device: torch.device, path: Path) -> None:
    """Profile one repeat: the most expensive operators, and a trace for chrome://tracing or Perfetto."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for work in works:
            work.run()
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    echo(profiler.key_averages().table(sort_by=order, row_limit=TOP_OPERATORS))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        write_atomically(path, lambda file: file.write(trace.read_bytes()))
    echo(f"{path}: for chrome://tracing or ui.perfetto.dev")


if __name__ == "__main__":
    run_program(main)
