"""The runs of a study as processes: started side by side, watched, ended politely, and turned into rows."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

from util.base.errors import UserError
from util.base.files import cut_off
from util.distributed.exit_codes import INTERRUPTED, REQUEUE
from util.runlog.run_log import ROWS
from util.study.design import Phantom, PlannedRun
from util.study.planning import Budget, in_words, seconds_left
from util.study.results import Row, load_row, row_of, save_row

ROOT = Path(__file__).resolve().parents[2]
STOPPED = (
    REQUEUE,
    INTERRUPTED,
    -signal.SIGTERM,
    -signal.SIGKILL,
)  # of a run that was asked to stop
LOOK_EVERY = 0.2  # seconds
ONE_THREAD = ("env", "OMP_NUM_THREADS=1")


@dataclass(frozen=True)
class Places:
    """Where runs and data lie."""

    runs: Path  # a folder per suite, in it one per run
    data: Path  # a folder per phantom

    def folder(self, run: PlannedRun) -> Path:
        """Of a run."""
        return self.runs / run.suite / run.name

    def phantom(self, phantom: Phantom) -> Path:
        """Of the data."""
        return self.data / phantom.name

    @property
    def cache(self) -> Path:
        """Of the decoded images."""
        return self.data / "cache"


def hold(path: Path, *, waits: bool = False) -> IO[str] | None:
    """A lock that the system lets go of when this process and its children are gone; None where another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        stream.close()
        return None
    return stream


def prepare(phantom: Phantom, config: str, places: Places) -> None:
    """Draw the phantom and decode its images once, unless that is done.

    Raises:
        UserError: a script failed; it has said why.
    """
    folder = places.phantom(phantom)
    with hold(folder.with_name(f"{folder.name}.lock"), waits=True) as _:
        make = [sys.executable, ROOT / "scripts/make_phantom.py", "--output_dir", folder, *phantom.arguments]
        cache = [sys.executable, ROOT / "scripts/build_cache.py", "-c", config, "--data_path", folder]
        try:
            subprocess.run(list(map(str, make)), check=True)
            command = list(map(str, [*ONE_THREAD, *cache, "--cache", places.cache]))
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        except subprocess.CalledProcessError as error:
            raise UserError(f"{folder}: the data could not be made, see above") from error


@dataclass
class Process:
    """A run that is going on."""

    run: PlannedRun
    folder: Path
    process: subprocess.Popen
    lock: IO[str]
    console: IO[bytes]
    start: float
    is_whole: bool  # not the rest of one that was interrupted

    def ask_to_stop(self, *, insists: bool) -> None:
        """SIGTERM: it saves and ends. SIGKILL: it ends, and goes on from its last checkpoint another time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if insists else signal.SIGTERM)


def begin(run: PlannedRun, places: Places) -> Process | None:
    """Start a run, or go on with it; None where another process has it."""
    folder = places.folder(run)
    lock = hold(folder.with_name(f"{folder.name}.lock"))
    if lock is None:
        return None
    is_whole = not (folder / ROWS).exists()
    console = folder.with_name(f"{folder.name}.out")
    cut_off(console, 0)
    where = ["--data_path", places.phantom(run.phantom).resolve(), "--output_dir", folder.resolve(), "--device", "cpu"]
    options = ["--options", f"image_cache={str(places.cache.resolve())!r}", *run.words]
    command = [*ONE_THREAD, sys.executable, "main.py", "--config_file", run.cell.config, *where, *options]
    stream = console.open("ab")
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the study alone, which then asks its runs to save
        pass_fds=(lock.fileno(),),  # should the study be killed, the run that goes on still holds its lock
    )
    return Process(run, folder, process, lock, stream, time.monotonic(), is_whole)


def finish(one: Process) -> tuple[Row | None, str]:
    """The row of a run that has ended, kept in its folder, and a line about it; no row where it was only stopped."""
    code = one.process.returncode
    seconds = time.monotonic() - one.start
    one.console.close()
    if code in STOPPED:
        one.lock.close()
        return None, f"{one.run.name}: stopped, goes on another time"
    row = row_of(one.run, one.folder, code, seconds if one.is_whole else None)
    save_row(row, one.folder)
    one.lock.close()
    if not row.is_done:
        return row, f"{one.run.name}: FAILED with exit code {code}, see {one.console.name}"
    told = ", ".join(f"{name} {value:.3f}" for name in ("AP50", "froc_mean") if (value := row.figure(name)) is not None)
    return row, f"{one.run.name}: {told or 'no figures'}, {row.verdict}, {in_words(seconds)}"


def finished_before(run: PlannedRun, places: Places) -> Row | None:
    """The row of a run whose folder says that it is done."""
    row = load_row(places.folder(run))
    return row if row is not None and row.is_done else None


@dataclass
class Crew:
    """Works through runs, some at a time.

    Args:
        places: where they lie.
        workers: runs at a time.
        budget: after which none begins that would not end in it.
        durations: seconds of earlier runs, from which is guessed how long one takes.
        keep: called with every row.
        say: called with every line.
        show: called with the running line, again and again.
    """

    places: Places
    workers: int
    budget: Budget
    durations: list[float]
    keep: Callable[[Row], None]
    say: Callable[[str], None]
    show: Callable[[str], None]
    is_stopping: bool = False
    going: list[Process] = field(default_factory=list)
    not_started: list[PlannedRun] = field(default_factory=list)

    def stop(self, *_: object) -> None:
        """For signals: the first one asks all runs to save and end, the second one ends them."""
        for one in self.going:
            one.ask_to_stop(insists=self.is_stopping)
        self.is_stopping = True

    def work(self, runs: Sequence[PlannedRun]) -> list[Row]:
        """Do what can be done; the rows that came of it. `not_started` are the others."""
        waiting = list(runs)
        rows = []
        total = len(runs)
        while self.going or self._may_start(waiting):
            while len(self.going) < self.workers and self._may_start(waiting):
                self._start(waiting.pop(0))
            time.sleep(LOOK_EVERY)
            self.show(f"[{len(rows)}/{total}] {len(self.going)} going, {self._outlook(waiting)}")
            for one in [one for one in self.going if one.process.poll() is not None]:
                self.going.remove(one)
                row, told = finish(one)
                if row is not None:
                    rows.append(row)
                    self.keep(row)
                    if row.seconds is not None and row.is_done:
                        self.durations.append(row.seconds)
                self.say(f"[{len(rows)}/{total}] {told}; {self._outlook(waiting)}")
        self.not_started += waiting
        return rows

    def _outlook(self, waiting: Sequence[PlannedRun]) -> str:
        left = seconds_left(len(waiting) + len(self.going), self.workers, self.durations)
        rate = f"{3600 * self.workers / median(self.durations):.1f} runs an hour, " if self.durations else ""
        return f"{rate}{in_words(left)} left"

    def _may_start(self, waiting: Sequence[PlannedRun]) -> bool:
        return bool(waiting) and not self.is_stopping and self.budget.allows(time.monotonic(), self.durations)

    def _start(self, run: PlannedRun) -> None:
        one = begin(run, self.places)
        if one is None:
            self.say(f"{run.name}: another process is at it; left out")
            self.not_started.append(run)
        else:
            self.going.append(one)
