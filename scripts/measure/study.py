"""Train the runs of a study, and write tables and plots of the results into its document.

    python scripts/measure/study.py --suite alpha --budget 75            # start or resume, for at most so many minutes
    python scripts/measure/study.py --suite alpha --rebuild              # collect results, write tables and plots
    python scripts/measure/study.py --suite alpha --slurm alpha.sbatch   # a Slurm job array of missing runs
    python scripts/measure/study.py --suite smoke                        # a test of the study itself; a minute

A run is a training of its own in logs/study/SUITE/CELL-seedN; an interrupted one is resumed, a finished one is not
repeated. Ctrl-C lets the runs save. The results are docs/study/SUITE.jsonl; the suites: study_suites.py.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from scripts.measure.study_job import write_job_array
from scripts.measure.study_suites import SUITES, find_suite
from util.base.console import clear_progress, echo
from util.base.errors import UserError
from util.base.processes import usable_cores
from util.config.command_line import Parser, hide_aliases
from util.distributed.exit_codes import FAILED, FINISHED, INTERRUPTED, REQUEUE
from util.study.design import PlannedRun
from util.study.planning import Budget, format_duration, seconds_left
from util.study.runs import StudyFolders, WorkerPool, finished_before, on_signals, prepare_data, run_alone
from util.study.suite_results import SuiteResults

WRITER = "scripts/measure/study.py"


def main() -> int:
    """Exit code 0: done; 1: a run failed; 2: a mistake; 75: stopped, everything saved; 130: the same after Ctrl-C."""
    args = parse_args()
    suite = find_suite(args.suite)
    results = SuiteResults(suite, args.output_dir or Path(suite.home), StudyFolders(args.runs, args.data_path))
    runs = suite.runs(suite.seeds if args.num_seeds is None else args.num_seeds)
    if args.run is not None:
        return run_one(results, runs, args.run)
    if args.slurm is None and not args.rebuild:
        return run_all(results, runs, args)
    results.collect(runs)
    if args.slurm is not None:
        write_job(results, runs, args.slurm)
    else:
        echo(results.rebuild(WRITER))
    return FINISHED


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--suite", required=True, help=f"which study: {', '.join(SUITES)}")
    add("--budget", type=float, metavar="MIN", help="time limit in minutes (default: no limit)")
    add("--workers", type=int, metavar="N", help="runs at a time (default: one per usable core)")
    seeds = "seeds 0 to N - 1 (default: as the suite plans)"
    hide_aliases(add("--num_seeds", "--seeds", type=int, metavar="N", help=seeds))
    add("--rebuild", action="store_true", help="train nothing; collect results, write tables and plots")
    add("--slurm", type=Path, metavar="FILE", help="train nothing; write a Slurm job array of what is missing")
    add("--run", type=int, metavar="INDEX", help="only this run, as a task of the array; tables are not written")
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


def run_all(results: SuiteResults, runs: Sequence[PlannedRun], args: argparse.Namespace) -> int:
    """Train the missing runs within the budget, and rebuild the document; return the exit code."""
    start = time.monotonic()
    results.collect(runs)
    waiting = results.pending(runs)
    echo(f"{results.suite.name}: {len(runs) - len(waiting)} of {len(runs)} runs are done")
    if waiting:
        prepare(waiting[0], results.folders)
    workers = args.workers or usable_cores()
    durations = [row.seconds for row in results.rows.values() if row.seconds is not None and row.is_done]
    budget = Budget(start, inf if args.budget is None else 60 * args.budget)
    pool = WorkerPool(results.folders, workers, budget, durations, results.save, show_progress)
    with on_signals(pool.stop) as signals:
        failed = [result for result in pool.train(waiting) if not result.is_done]
    echo(results.rebuild(WRITER))
    for result in failed:
        echo(f"failed: {result.cell}, seed {result.seed}, exit code {result.exit_code}", file=sys.stderr)
    if left := len(results.pending(runs)):
        duration = format_duration(seconds_left(left, workers, pool.durations))
        echo(f"{left} runs are left, about {duration}; the same command resumes the study")
    if signals:
        return INTERRUPTED if signals[0] == signal.SIGINT else REQUEUE
    return FAILED if failed else FINISHED


def show_progress(line: str) -> None:
    """Print the progress line of a terminal."""
    if sys.stdout.isatty():
        clear_progress()
        echo(line, end="")


def run_one(results: SuiteResults, runs: Sequence[PlannedRun], index: int) -> int:
    """Train one run as a task of a job array; its result stays in its folder, so that tasks do not collide."""
    if not 0 <= index < len(runs):
        raise UserError(f"--run {index}: the suite has the runs 0 to {len(runs) - 1}")
    run = runs[index]
    if not results.pending([run]) or finished_before(run, results.folders):
        echo(f"{run.name} is done already")
        return FINISHED
    prepare(run, results.folders)
    result, line = run_alone(run, results.folders)
    echo(line)
    return REQUEUE if result is None else FINISHED if result.is_done else FAILED


def write_job(results: SuiteResults, runs: Sequence[PlannedRun], file: Path) -> None:
    """Write the job array of the missing runs, and prepare the data that its tasks share."""
    if missing := results.pending(runs):
        prepare(runs[0], results.folders)
        write_job_array(file, runs, missing, results.folders)
        echo(f"{file}: {len(missing)} runs; sbatch {file}, then --rebuild")
    else:
        echo("all runs are done; there is nothing to submit")


def prepare(run: PlannedRun, folders: StudyFolders) -> None:
    """Create the phantom of a run and its cache of decoded images, unless they exist."""
    folder = folders.phantom(run.phantom).resolve()
    phantom = ["scripts/make_phantom.py", "--output_dir", folder, *run.phantom.arguments]
    cache = ["scripts/build_cache.py", "-c", run.cell.config, "--data_path", folder]
    prepare_data(folder, [phantom, [*cache, "--cache", folders.cache.resolve()]])


if __name__ == "__main__":
    run_program(main)
