"""The figures of scripts/measure/benchmark.py as tables and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from scripts.measure.stopwatch import Lap, Spread
from scripts.measure.workloads import Case, Operations

AS_IS = "(the config as it is)"


@dataclass
class Measured:
    """What one setting says about one work."""

    work: str
    setting: str
    laps: list[Lap]
    answer: torch.Tensor  # of the first repeat
    parts: list[dict[str, Any]]  # path, ms, share in percent, kept_bytes
    memory: dict[str, float] | None = None  # peak_mb, before_mb

    @property
    def headline(self) -> Spread:
        """Milliseconds of a repeat, of the processor or of the device."""
        return Spread.of([lap.headline for lap in self.laps])

    @property
    def wall(self) -> Spread:
        """Milliseconds of a repeat by the clock on the wall."""
        return Spread.of([lap.wall for lap in self.laps])


def report(found: list[Measured], operations: dict[str, Operations], case: Case, *, is_comparison: bool) -> str:
    """All tables."""
    lines: list[str] = []
    for work in dict.fromkeys(row.work for row in found):
        rows = [row for row in found if row.work == work]
        lines += ["", *(compared(rows, case) if is_comparison else alone(rows[0], case))]
        lines.append(told_operations(operations[work], rows[0], case))
    if found[0].memory is None:
        lines.append("memory is not measured (--no_memory)")
    return "\n".join(lines)


def unit(case: Case) -> str:
    """Of the headline."""
    return "device ms" if case.device.type == "cuda" else "cpu ms"


def alone(row: Measured, case: Case) -> Iterator[str]:
    """A line per part, inner ones indented, and the total."""
    yield f"{row.work + ', per image':34}{unit(case):>12}{'quartiles':>20}{'share':>9}{'kept':>12}"
    for part in row.parts:
        name = "  " * (len(part["path"]) - 1) + part["path"][-1]
        kept = f"{part['kept_bytes'] / 2**20:.1f} MB" if part["kept_bytes"] else "-"
        yield f"{name:34}{times(part['ms'], case)}{part['share']:7.1f} %{kept:>12}"
    memory = f"memory {row.memory['peak_mb']:.0f} MB, " if row.memory else ""
    yield f"{'total':34}{times(asdict(row.headline), case)}{100:7.1f} %   {memory}{told_wall(row, case)}"


def compared(rows: list[Measured], case: Case) -> Iterator[str]:
    """A line per setting; ratios are those of the yardstick's time to the setting's, round by round."""
    width = max(34, *(len(row.setting) + 2 for row in rows))
    head = f"{rows[0].work + ', per image':{width}}{unit(case):>12}{'quartiles':>20}{'wall ms':>10}"
    yield f"{head}{'times faster':>14}{'quartiles':>16}{'memory':>10}{'differs by':>12}"
    for row in rows:
        ratio = ratios(rows[0], row)
        memory = f"{row.memory['peak_mb']:.0f} MB" if row.memory else "-"
        spread = f"[{ratio.low:.2f}..{ratio.high:.2f}]"
        yield (
            f"{row.setting or AS_IS:{width}}{times(asdict(row.headline), case)}{row.wall.median / case.batch:10.1f}"
            f"{ratio.median:13.2f}x{spread:>16}{memory:>10}{difference(rows[0].answer, row.answer):12.1e}"
        )


def times(spread: dict[str, float], case: Case) -> str:
    """Median and quartiles per image."""
    median, low, high = (spread[name] / case.batch for name in ("median", "low", "high"))
    return f"{median:12.2f}{f'[{low:.2f}..{high:.2f}]':>20}"


def told_wall(row: Measured, case: Case) -> str:
    """The time that passes, and how often it was taken."""
    wall = row.wall
    return (
        f"wall {wall.median / case.batch:.1f} ms [{wall.low / case.batch:.1f}..{wall.high / case.batch:.1f}], "
        f"{wall.repeats} repeats"
    )


def told_operations(count: Operations, row: Measured, case: Case) -> str:
    """Operations of a repeat and at what rate they were done; on a CPU per second of one core."""
    per = "s" if case.device.type == "cuda" else "core and s"
    rate = amount(count.total / (row.headline.median / 1000), "FLOP")
    split = f" ({amount(count.forward)} forward, {amount(count.backward)} backward)" if count.backward else ""
    whose = f", {row.setting}" if row.setting else ""
    moved = f"; moved at least for weights and optimizer: {amount(count.least_bytes, 'B')}" if count.least_bytes else ""
    return f"operations: {amount(count.total, 'FLOP')}{split}; {rate} per {per}{whose}{moved}"


def amount(value: float, what: str = "") -> str:
    """With the prefix that leaves one to three digits before the point."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}{what}"
    return f"{value:.0f} {what}"


def ratios(yardstick: Measured, row: Measured) -> Spread:
    """How many times faster, round by round."""
    return Spread.of([a.headline / b.headline for a, b in zip(yardstick.laps, row.laps, strict=True)])


def difference(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """The largest difference of two answers, relative to the largest entry; of different lengths, of what both have."""
    wanted, found = wanted.flatten().double(), found.flatten().double()
    common = min(len(wanted), len(found))
    if not common:
        return 0.0
    return ((wanted[:common] - found[:common]).abs().max() / wanted.abs().max().clamp(min=1e-12)).item()


def as_rows(found: list[Measured], operations: dict[str, Operations]) -> list[dict[str, Any]]:
    """For JSON: milliseconds are of a whole repeat, not per image."""
    rows = []
    for row in found:
        first = next(other for other in found if other.work == row.work)
        kind = "cpu_ms" if row.laps[0].device is None else "device_ms"
        rows.append(
            {
                "work": row.work,
                "setting": row.setting,
                kind: asdict(row.headline),
                "wall_ms": asdict(row.wall),
                "laps": [asdict(lap) for lap in row.laps],
                "parts": row.parts,
                "memory": row.memory,
                "operations": asdict(operations[row.work]),
                "times_faster": asdict(ratios(first, row)),
                "differs_by": difference(first.answer, row.answer),
            }
        )
    return rows
