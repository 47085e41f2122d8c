"""The measurements of benchmark.py as tables and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from scripts.measure.stopwatch import Lap, Spread
from scripts.measure.workloads import Case, Operations

AS_IS = "(the config as it is)"


@dataclass
class Measurement:
    """The measurement of one workload in one setting."""

    workload: str
    setting: str
    laps: list[Lap]
    result: torch.Tensor  # of the first repeat
    parts: list[dict[str, Any]]  # path, ms, share in percent, kept_bytes
    memory: dict[str, float] | None = None  # peak_mb, before_mb

    @property
    def time(self) -> Spread:
        """Processor or device milliseconds of a repeat."""
        return Spread.of([lap.headline for lap in self.laps])

    @property
    def wall(self) -> Spread:
        """Wall-clock milliseconds of a repeat."""
        return Spread.of([lap.wall for lap in self.laps])


def report(found: list[Measurement], operations: dict[str, Operations], case: Case, *, is_comparison: bool) -> str:
    """All tables as text."""
    lines: list[str] = []
    for workload in dict.fromkeys(row.workload for row in found):
        rows = [row for row in found if row.workload == workload]
        lines += ["", *(comparison_table(rows, case) if is_comparison else parts_table(rows[0], case))]
        lines.append(operations_line(operations[workload], rows[0], case))
    if found[0].memory is None:
        lines.append("memory is not measured (--no_memory)")
    return "\n".join(lines)


def unit(case: Case) -> str:
    """Unit of the times in the tables."""
    return "device ms" if case.device.type == "cuda" else "cpu ms"


def parts_table(row: Measurement, case: Case) -> Iterator[str]:
    """A line per part, with inner parts indented, and the total."""
    yield f"{row.workload + ', per image':34}{unit(case):>12}{'quartiles':>20}{'share':>9}{'kept':>12}"
    for part in row.parts:
        name = "  " * (len(part["path"]) - 1) + part["path"][-1]
        kept = f"{part['kept_bytes'] / 2**20:.1f} MB" if part["kept_bytes"] else "-"
        yield f"{name:34}{times(part['ms'], case)}{part['share']:7.1f} %{kept:>12}"
    memory = f"memory {row.memory['peak_mb']:.0f} MB, " if row.memory else ""
    yield f"{'total':34}{times(asdict(row.time), case)}{100:7.1f} %   {memory}{wall_time(row, case)}"


def comparison_table(rows: list[Measurement], case: Case) -> Iterator[str]:
    """A line per setting; ratios are the time of the first setting over that of each setting, repeat by repeat."""
    width = max(34, *(len(row.setting) + 2 for row in rows))
    head = f"{rows[0].workload + ', per image':{width}}{unit(case):>12}{'quartiles':>20}{'wall ms':>10}"
    yield f"{head}{'times faster':>14}{'quartiles':>16}{'memory':>10}{'differs by':>12}"
    for row in rows:
        ratio = ratios(rows[0], row)
        memory = f"{row.memory['peak_mb']:.0f} MB" if row.memory else "-"
        spread = f"[{ratio.low:.2f}..{ratio.high:.2f}]"
        yield (
            f"{row.setting or AS_IS:{width}}{times(asdict(row.time), case)}{row.wall.median / case.batch:10.1f}"
            f"{ratio.median:13.2f}x{spread:>16}{memory:>10}{difference(rows[0].result, row.result):12.1e}"
        )


def times(spread: dict[str, float], case: Case) -> str:
    """Median and quartiles per image as table columns."""
    median, low, high = (spread[name] / case.batch for name in ("median", "low", "high"))
    return f"{median:12.2f}{f'[{low:.2f}..{high:.2f}]':>20}"


def wall_time(row: Measurement, case: Case) -> str:
    """Wall-clock time per image, and the number of repeats."""
    median, low, high = (value / case.batch for value in (row.wall.median, row.wall.low, row.wall.high))
    return f"wall {median:.1f} ms [{low:.1f}..{high:.1f}], {row.wall.repeats} repeats"


def operations_line(count: Operations, row: Measurement, case: Case) -> str:
    """Operations of a repeat and the rate achieved; on a CPU per second of one core."""
    per = "s" if case.device.type == "cuda" else "core and s"
    rate = amount(count.total / (row.time.median / 1000), "FLOP")
    split = f" ({amount(count.forward)} forward, {amount(count.backward)} backward)" if count.backward else ""
    whose = f", {row.setting}" if row.setting else ""
    moved = f"; moved at least for weights and optimizer: {amount(count.least_bytes, 'B')}" if count.least_bytes else ""
    return f"operations: {amount(count.total, 'FLOP')}{split}; {rate} per {per}{whose}{moved}"


def amount(value: float, what: str = "") -> str:
    """Format a number with the prefix T, G or M that leaves one to three digits before the point."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}{what}"
    return f"{value:.0f} {what}"


def ratios(baseline: Measurement, row: Measurement) -> Spread:
    """How many times faster than the baseline, repeat by repeat."""
    return Spread.of([a.headline / b.headline for a, b in zip(baseline.laps, row.laps, strict=True)])


def difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """The largest difference of two results relative to the largest entry; only the common length is compared."""
    expected = expected.flatten().double()
    actual = actual.flatten().double()
    common = min(len(expected), len(actual))
    if not common:
        return 0.0
    return ((expected[:common] - actual[:common]).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def as_rows(found: list[Measurement], operations: dict[str, Operations]) -> list[dict[str, Any]]:
    """The rows of the JSON file; milliseconds are per repeat, not per image."""
    rows = []
    for row in found:
        first = next(other for other in found if other.workload == row.workload)
        kind = "cpu_ms" if row.laps[0].device is None else "device_ms"
        rows.append(
            {
                "work": row.workload,
                "setting": row.setting,
                kind: asdict(row.time),
                "wall_ms": asdict(row.wall),
                "laps": [asdict(lap) for lap in row.laps],
                "parts": row.parts,
                "memory": row.memory,
                "operations": asdict(operations[row.workload]),
                "times_faster": asdict(ratios(first, row)),
                "differs_by": difference(first.result, row.result),
            }
        )
    return rows
