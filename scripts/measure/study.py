"""Train the grid of a study, and write what came of it into its document.

    python scripts/measure/study.py --suite alpha --budget 75            # begin, or go on, for at most so many minutes
    python scripts/measure/study.py --suite alpha --rebuild          # rows, tables and figures anew from what is there
    python scripts/measure/study.py --suite alpha --slurm alpha.sbatch # a Slurm job array of missing runs
    python scripts/measure/study.py --suite smoke                        # does the machinery work? a minute

A run is a training of its own in logs/study/SUITE/CELL-seedN; one that was interrupted goes on, one that is done is not
repeated. Ctrl-C lets the runs save. The rows are docs/study/SUITE.jsonl; the suites: study_suites.py.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from scripts.measure.study_suites import SUITES, find_suite
from util.base.console import clear_progress, echo
from util.base.errors import UserError
from util.base.files import write_whole
from util.base.processes import usable_cores
from util.config.command_line import Parser, hide_aliases
from util.distributed.exit_codes import FAILED, FINISHED, INTERRUPTED, REQUEUE
from util.study.design import PlannedRun, Suite
from util.study.document import rewrite
from util.study.figures import FIGURES
from util.study.planning import Budget, in_words, pending, seconds_left
from util.study.results import Row, load_rows, require_of, save_rows
from util.study.runs import Crew, Places, begin, finish, finished_before, prepare
from util.study.tables import sections

JOB = """\
#!/usr/bin/env bash
#SBATCH --job-name=study_{suite}
#SBATCH --output=logs/%x_%A_%a.out
#SBATCH --open-mode=append
#SBATCH --array={array}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
# {count} runs of the study '{suite}', one per task, on one core each. Submit from the repository root: sbatch {file}
# Afterwards: python scripts/measure/study.py --suite {suite} --rebuild. What is missing: --slurm, sbatch again; a run
# that was interrupted goes on.
set -euo pipefail
root=${{SLURM_SUBMIT_DIR:-$PWD}}
[[ -f $root/scripts/common.sh ]] || {{
    echo "error: submit from the repository root (no scripts/common.sh in $root)" >&2
    exit 2
}}
source "$root/scripts/common.sh"

exec python scripts/measure/study.py --suite {suite} --num_seeds {seeds} --runs {runs} --data_path {data} \\
    --run "$SLURM_ARRAY_TASK_ID"
"""


def main() -> int:
    """0: done; 1: a run failed; 2: a mistake; 75: stopped, everything saved; 130: the same after Ctrl-C."""
    args = parse_args()
    suite = find_suite(args.suite)
    study = Study(suite, args.output_dir or Path(suite.home), Places(args.runs, args.data_path))
    runs = suite.runs(suite.seeds if args.num_seeds is None else args.num_seeds)
    if args.run is not None:
        return run_one(study, runs, args.run)
    if args.slurm is not None:
        write_job(study, runs, args)
    elif args.rebuild:
        study.collect(runs)
        echo(study.rebuild())
    else:
        return run_all(study, runs, args)
    return FINISHED


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--suite", required=True, help=f"which study: {', '.join(SUITES)}")
    add("--budget", type=float, metavar="MIN", help="minutes after which no run shall go on (default: no limit)")
    add("--workers", type=int, metavar="N", help="runs at a time (default: one per usable core)")
    seeds = "seeds 0 to N - 1 (default: as the suite plans)"
    hide_aliases(add("--num_seeds", "--seeds", type=int, metavar="N", help=seeds))
    add("--rebuild", action="store_true", help="train nothing; gather rows, write tables and figures")
    add("--slurm", type=Path, metavar="FILE", help="train nothing; write a Slurm job array of what is missing")
    add("--run", type=int, metavar="INDEX", help="this run alone, as a task of the array; tables are not written")
    add("--runs", type=Path, default=Path("logs/study"), help="folder of the runs (default: logs/study)")
    data = "folder of the synthetic data (default: data/study)"
    hide_aliases(add("--data_path", "--data", type=Path, default=Path("data/study"), help=data))
    output = "folder of document, study/ and images/ (default: docs)"
    hide_aliases(add("--output_dir", "--into", type=Path, help=output))
    args = parser.parse_args()
    for name in ("workers", "num_seeds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.budget is not None and not args.budget > 0:
        parser.error("--budget must be positive minutes")
    return args


class Study:
    """A suite with its rows.

    Args:
        suite: what is to be run.
        home: where rows, document and figures lie.
        places: where runs and data lie.
    """

    def __init__(self, suite: Suite, home: Path, places: Places) -> None:
        self.suite = suite
        self.home = home
        self.places = places
        self.file = home / "study" / f"{suite.name}.jsonl"
        self.rows = load_rows(self.file, suite)

    @property
    def done(self) -> set[tuple[str, int]]:
        """Cells and seeds that need no run."""
        return {row.key for row in self.rows.values() if row.is_done}

    def keep(self, row: Row) -> None:
        """A row has come."""
        self.rows[row.key] = row
        save_rows(self.file, self.suite, self.rows.values())

    def collect(self, runs: Sequence[PlannedRun]) -> None:
        """Take the rows of runs that were done elsewhere or before, from their folders."""
        for run in pending(runs, self.done):
            if row := finished_before(run, self.places):
                require_of(self.suite, row, str(self.places.folder(run)))
                self.rows[row.key] = row
        if self.rows:
            save_rows(self.file, self.suite, self.rows.values())

    def rebuild(self) -> str:
        """Write the tables and the figures; a line about it."""
        rows = [row for row in self.rows.values() if row.is_done]
        document = self.home / self.suite.document
        rewrite(document, self.suite.title, sections(self.suite, rows))
        for name in self.suite.figures:
            path = self.home / "images" / f"study_{self.suite.name}_{name}.png"
            write_whole(
                path, partial(FIGURES[name](self.suite, rows).savefig, format="png", metadata={"Software": None})
            )
        return f"{document}: tables and figures of {len(rows)} runs"


def run_all(study: Study, runs: Sequence[PlannedRun], args: argparse.Namespace) -> int:
    """Train what is missing, as far as the budget goes."""
    start = time.monotonic()
    study.collect(runs)
    waiting = pending(runs, study.done)
    echo(f"{study.suite.name}: {len(runs) - len(waiting)} of {len(runs)} runs are done")
    if waiting:
        prepare(study.suite.phantom, waiting[0].cell.config, study.places)
    workers = args.workers or usable_cores()
    before = [row.seconds for row in study.rows.values() if row.seconds is not None and row.is_done]
    budget = Budget(start, inf if args.budget is None else 60 * args.budget)
    crew = Crew(study.places, workers, budget, before, study.keep, say, show)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: (signals.append(number), crew.stop()))
    rows = crew.work(waiting)
    echo(study.rebuild())
    left = pending(runs, study.done)
    return tell_end(rows, left, in_words(seconds_left(len(left), workers, crew.durations)), signals)


def say(text: str) -> None:
    """A line, in place of the running one."""
    clear_progress()
    echo(text)


def show(text: str) -> None:
    """The running line of a terminal."""
    if sys.stdout.isatty():
        clear_progress()
        echo(text, end="")


def tell_end(rows: Sequence[Row], left: Sequence[PlannedRun], time_left: str, signals: Sequence[int]) -> int:
    """Say what failed and what is left; the exit code."""
    failed = [row for row in rows if not row.is_done]
    for row in failed:
        echo(f"failed: {row.cell}, seed {row.seed}, exit code {row.exit_code}", file=sys.stderr)
    if left:
        echo(f"{len(left)} runs are left, about {time_left}; the same command goes on")
    if signals:
        return INTERRUPTED if signals[0] == signal.SIGINT else REQUEUE
    return FAILED if failed else FINISHED


def run_one(study: Study, runs: Sequence[PlannedRun], index: int) -> int:
    """One run, for a task of a job array: its row stays in its folder, so that tasks do not meet."""
    if not 0 <= index < len(runs):
        raise UserError(f"--run {index}: the suite has the runs 0 to {len(runs) - 1}")
    run = runs[index]
    if (run.cell.name, run.seed) in study.done or finished_before(run, study.places):
        echo(f"{run.name} is done already; nothing to do")
        return FINISHED
    prepare(run.phantom, run.cell.config, study.places)
    signals: list[int] = []
    going = begin(run, study.places)
    if going is None:
        raise UserError(f"{run.name}: another process is at it; wait for its end")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: (going.ask_to_stop(insists=bool(signals)), signals.append(number)))
    going.process.wait()
    row, told = finish(going)
    echo(told)
    return REQUEUE if row is None else FINISHED if row.is_done else FAILED


def write_job(study: Study, runs: Sequence[PlannedRun], args: argparse.Namespace) -> None:
    """Write the job array of what is missing, and make the data that its tasks share."""
    study.collect(runs)
    todo = {(run.cell.name, run.seed) for run in pending(runs, study.done)}
    indices = [n for n, run in enumerate(runs) if (run.cell.name, run.seed) in todo]
    if not indices:
        echo("all runs are done; there is nothing to submit")
        return
    prepare(study.suite.phantom, runs[0].cell.config, study.places)
    values: Mapping[str, object] = {
        "suite": study.suite.name,
        "array": in_ranges(indices),
        "count": len(indices),
        "file": args.slurm,
        "seeds": len({run.seed for run in runs}),
        "runs": shlex.quote(str(args.runs)),
        "data": shlex.quote(str(args.data_path)),
    }
    write_whole(args.slurm, lambda file: file.write(JOB.format(**values).encode()))
    echo(f"{args.slurm}: {len(indices)} runs; sbatch {args.slurm}, then --rebuild")


def in_ranges(indices: Sequence[int]) -> str:
    """Rising numbers as Slurm reads them: 0-3,5."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


if __name__ == "__main__":
    run_program(main)
