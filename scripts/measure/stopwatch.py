"""Time a workload and its parts, and count the memory that its parts save for the backward pass."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

PartPath = tuple[str, ...]  # names of a part and of those around it, the outermost first
MILLISECONDS = 1000.0


@dataclass(frozen=True)
class Lap:
    """The times of one repeat, in milliseconds."""

    wall: float
    cpu: float  # of all threads of the process
    device: float | None  # between two events on the CUDA device; None on a CPU

    @property
    def headline(self) -> float:
        """Device time on a GPU; on a CPU processor time, which other programs affect least."""
        return self.cpu if self.device is None else self.device


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and range over repeats."""

    median: float
    low: float  # lower quartile
    high: float  # upper quartile
    least: float
    most: float
    repeats: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return Spread(median(values), low, high, min(values), max(values), len(values))


@dataclass(frozen=True)
class _Mark:
    wall: float
    cpu: float
    event: Any


class Clock:
    """Times work on a device.

    Args:
        device_type: "cpu" or "cuda".
    """

    def __init__(self, device_type: str) -> None:
        self.is_cuda = device_type == "cuda"

    def lap(self, work: Callable[[], object]) -> Lap:
        """Run the work until the device has finished, and time it."""
        self.wait()
        start = self.mark()
        work()
        end = self.mark()
        self.wait()
        device = self.between(start, end) if self.is_cuda else None
        now = (time.perf_counter(), time.process_time()) if self.is_cuda else (end.wall, end.cpu)
        return Lap(MILLISECONDS * (now[0] - start.wall), MILLISECONDS * (now[1] - start.cpu), device)

    def mark(self) -> _Mark:
        """Record a point in time; on a GPU an event in its stream."""
        event = None
        if self.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        return _Mark(time.perf_counter(), time.process_time(), event)

    def between(self, start: _Mark, end: _Mark) -> float:
        """Device or processor milliseconds between two marks; on a GPU call `wait` before."""
        return start.event.elapsed_time(end.event) if self.is_cuda else MILLISECONDS * (end.cpu - start.cpu)

    def wait(self) -> None:
        """Synchronise with the device."""
        if self.is_cuda:
            torch.cuda.synchronize()


def time_alternately(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of every repeat of several functions, called in turn, in reverse order every other time."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats):
        for name in sorted(functions, reverse=bool(repeat % 2)):
            start = time.process_time()
            functions[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


class Stopwatch:
    """Times nested parts of a repeat; times of repeated parts are summed.

    Args:
        clock: of the device.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.kept: dict[PartPath, int] = {}  # bytes, see `counting`
        self._open: list[tuple[PartPath, _Mark]] = []
        self._closed: list[tuple[PartPath, _Mark, _Mark]] = []

    @property
    def path(self) -> PartPath:
        """Path of the innermost open part."""
        return self._open[-1][0] if self._open else ()

    def begin(self, name: str) -> None:
        """Open a part."""
        self._open.append(((*self.path, name), self.clock.mark()))

    def end(self) -> None:
        """Close the innermost part."""
        path, start = self._open.pop()
        self._closed.append((path, start, self.clock.mark()))

    def times(self, name: str, function: Callable) -> Callable:
        """Wrap a function as a part; a compiler skips it, so it may stand inside a compiled region."""

        @torch.compiler.disable
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return timed

    def milliseconds(self) -> dict[PartPath, float]:
        """Milliseconds of each part since the last call, by first start; outer parts before inner ones."""
        self.clock.wait()
        found: dict[PartPath, float] = {}
        for path, start, end in sorted(self._closed, key=lambda part: part[1].wall):
            found[path] = found.get(path, 0.0) + self.clock.between(start, end)
        self._closed.clear()
        return found

    @contextmanager
    def counting(self, known: Iterable[Tensor]) -> Iterator[None]:
        """Count in `kept` the bytes that autograd saves for the backward pass, by the part that saves them first.

        Parts include their inner parts; the empty path is the total. Memory of custom operations is not counted.

        Args:
            known: tensors that exist anyway: parameters, buffers, inputs.
        """
        seen = {t.untyped_storage().data_ptr() for t in known}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.layout == torch.strided and (storage := tensor.untyped_storage()).data_ptr() not in seen:
                seen.add(storage.data_ptr())
                for depth in range(len(self.path) + 1):
                    self.kept[self.path[:depth]] = self.kept.get(self.path[:depth], 0) + storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
