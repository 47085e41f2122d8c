"""Run the trainings of a study as processes: start several in parallel, watch them, stop them, collect results."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

from util.base.console import clear_progress, echo
from util.base.errors import UserError
from util.base.files import truncate
from util.distributed.exit_codes import INTERRUPTED, REQUEUE
from util.runlog.run_log import ROWS
from util.study.design import Phantom, PlannedRun
from util.study.planning import Budget, format_duration, seconds_left
from util.study.results import RunResult, load_result, result_of, save_result

ROOT = Path(__file__).resolve().parents[2]
STOPPED = (REQUEUE, INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL)  # of a run that was asked to stop and can resume
POLL_SECONDS = 0.2
ONE_THREAD = ("env", "OMP_NUM_THREADS=1")


@dataclass(frozen=True)
class StudyFolders:
    """The folders of runs and data."""

    runs: Path  # a folder per suite, in it one per run
    data: Path  # a folder per phantom

    def run(self, run: PlannedRun) -> Path:
        """The folder of a run."""
        return self.runs / run.suite / run.name

    def phantom(self, phantom: Phantom) -> Path:
        """The folder of a phantom."""
        return self.data / phantom.name

    @property
    def cache(self) -> Path:
        """The folder of the decoded images."""
        return self.data / "cache"


def lock_file(path: Path, *, waits: bool = False) -> IO[str] | None:
    """Lock a file until this process and its children have ended; None where another process has the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        stream.close()
        return None
    return stream


def prepare_data(folder: Path, commands: Sequence[Sequence[object]]) -> None:
    """Run the commands that prepare a data folder, in one process at a time.

    Raises:
        UserError: a command failed; it has printed why.
    """
    lock = lock_file(folder.with_name(f"{folder.name}.lock"), waits=True)
    with lock or nullcontext():
        for command in commands:
            words = list(map(str, [*ONE_THREAD, sys.executable, *command]))
            if subprocess.run(words, check=False, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
                raise UserError(f"{folder}: the data could not be made, see above")


@dataclass
class RunningTraining:
    """A training process."""

    run: PlannedRun
    folder: Path
    process: subprocess.Popen
    lock: IO[str]
    console: IO[bytes]
    start: float
    is_resumed: bool

    def ask_to_stop(self, *, insists: bool) -> None:
        """Send SIGTERM, after which it saves and ends, or SIGKILL; either way it can resume from its checkpoint."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if insists else signal.SIGTERM)


def start_run(run: PlannedRun, folders: StudyFolders) -> RunningTraining | None:
    """Start or resume a run; None where another process is running it."""
    folder = folders.run(run)
    lock = lock_file(folder.with_name(f"{folder.name}.lock"))
    if lock is None:
        return None
    is_resumed = (folder / ROWS).exists()
    console = folder.with_name(f"{folder.name}.out")
    truncate(console, 0)
    where = ["--data_path", folders.phantom(run.phantom).resolve(), "--output_dir", folder.resolve(), "--device", "cpu"]
    options = ["--options", f"image_cache={str(folders.cache.resolve())!r}", *run.arguments]
    command = [*ONE_THREAD, sys.executable, "main.py", "--config_file", run.cell.config, *where, *options]
    stream = console.open("ab")
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the study alone, which then asks its runs to save
        pass_fds=(lock.fileno(),),  # if the study is killed, the run that continues still holds its lock
    )
    return RunningTraining(run, folder, process, lock, stream, time.monotonic(), is_resumed)


def finish_run(training: RunningTraining) -> tuple[RunResult | None, str]:
    """The result of a run that has ended, saved in its folder, and a line about it; no result if it was stopped."""
    code = training.process.returncode
    seconds = time.monotonic() - training.start
    name = training.run.name
    training.console.close()
    if code in STOPPED:
        training.lock.close()
        return None, f"{name}: stopped, the same command resumes it"
    result = result_of(training.run, training.folder, code, None if training.is_resumed else seconds)
    save_result(result, training.folder)
    training.lock.close()
    if not result.is_done:
        return result, f"{name}: FAILED with exit code {code}, see {training.console.name}"
    values = [
        f"{metric} {value:.3f}" for metric in ("AP50", "froc_mean") if (value := result.metric(metric)) is not None
    ]
    return result, f"{name}: {', '.join(values) or 'no metrics'}, {result.verdict}, {format_duration(seconds)}"


def run_alone(run: PlannedRun, folders: StudyFolders) -> tuple[RunResult | None, str]:
    """Run one training to its end; signals are passed on to it.

    Raises:
        UserError: another process is running it.
    """
    training = start_run(run, folders)
    if training is None:
        raise UserError(f"{run.name}: another process is running it; wait for its end")
    with on_signals(lambda count: training.ask_to_stop(insists=count > 1)):
        training.process.wait()
    return finish_run(training)


def finished_before(run: PlannedRun, folders: StudyFolders) -> RunResult | None:
    """The result in the folder of a run that has finished."""
    result = load_result(folders.run(run))
    return result if result is not None and result.is_done else None


def _log(line: str) -> None:
    clear_progress()
    echo(line)


@contextmanager
def on_signals(stop: Callable[[int], None]) -> Iterator[list[int]]:
    """Call `stop` with the number of signals so far at every SIGINT and SIGTERM; yields the list of signals."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        stop(len(received))

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class WorkerPool:
    """Runs trainings in parallel."""

    folders: StudyFolders
    workers: int  # runs at a time
    budget: Budget  # no run starts that would exceed it
    durations: list[float]  # seconds of earlier runs, from which the duration of a run is estimated
    save: Callable[[RunResult], None]  # called with every result
    show_progress: Callable[[str], None]  # called with the progress line, again and again
    is_stopping: bool = False
    running: list[RunningTraining] = field(default_factory=list)

    def stop(self, num_signals: int) -> None:
        """At the first signal ask all runs to save and end, at later ones kill them."""
        self.is_stopping = True
        for training in self.running:
            training.ask_to_stop(insists=num_signals > 1)

    def train(self, runs: Sequence[PlannedRun]) -> list[RunResult]:
        """Train as many runs as the budget and signals allow; return their results."""
        waiting = list(runs)
        results: list[RunResult] = []
        while self.running or self._may_start(waiting):
            while len(self.running) < self.workers and self._may_start(waiting):
                self._start(waiting.pop(0))
            time.sleep(POLL_SECONDS)
            self.show_progress(f"[{len(results)}/{len(runs)}] {len(self.running)} running, {self._time_left(waiting)}")
            for training in [one for one in self.running if one.process.poll() is not None]:
                self.running.remove(training)
                result, line = finish_run(training)
                if result is not None:
                    results.append(result)
                    self.save(result)
                    if result.seconds is not None and result.is_done:
                        self.durations.append(result.seconds)
                _log(f"[{len(results)}/{len(runs)}] {line}; {self._time_left(waiting)}")
        return results

    def _time_left(self, waiting: Sequence[PlannedRun]) -> str:
        left = seconds_left(len(waiting) + len(self.running), self.workers, self.durations)
        rate = f"{3600 * self.workers / median(self.durations):.1f} runs an hour, " if self.durations else ""
        return f"{rate}{format_duration(left)} left"

    def _may_start(self, waiting: Sequence[PlannedRun]) -> bool:
        return bool(waiting) and not self.is_stopping and self.budget.allows(time.monotonic(), self.durations)

    def _start(self, run: PlannedRun) -> None:
        training = start_run(run, self.folders)
        if training is None:
            _log(f"{run.name}: another process is running it; skipped")
        else:
            self.running.append(training)
