"""The design of a study: its cells, seeds, data, and the order of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

CONFIG = "config/DINO/DINO_tiny_phantom.py"
Options = Mapping[str, Any]  # knob -> value, as after --options


@dataclass(frozen=True)
class Phantom:
    """The synthetic data of a study; the share of images with boxes is the generator's default."""

    train: int  # images
    val: int
    size: int  # side, pixels
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of its folder; suites with the same phantom share it."""
        return f"{self.train}_{self.val}_{self.size}px_seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """Command-line arguments for the generator."""
        values = {"train": self.train, "val": self.val, "size": self.size, "seed": self.seed}
        return [word for key, value in values.items() for word in (f"--{key}", str(value))]


@dataclass(frozen=True)
class Cell:
    """One recipe of a study."""

    name: str  # first part of the names of its run folders
    levels: Mapping[str, str]  # factor -> level: the place of the cell in the grid, as the tables print it
    options: Options  # what it changes
    config: str = CONFIG


@dataclass(frozen=True)
class PlannedRun:
    """One training: a cell and a seed."""

    suite: str
    cell: Cell
    seed: int
    settings: Options  # every option it is started with; two runs with other settings are not the same run
    phantom: Phantom
    metrics: Mapping[str, str]  # as in the suite

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.cell.name}-seed{self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """Cell and seed, which identify a run within its suite."""
        return self.cell.name, self.seed

    @property
    def arguments(self) -> list[str]:
        """The settings as command-line arguments after --options."""
        return [f"{key}={value!r}".replace(" ", "") for key, value in self.settings.items()]


@dataclass(frozen=True)
class Contrast:
    """A comparison for the tables: one factor's levels against its reference, within the levels of another factor."""

    factor: str
    within: str


@dataclass(frozen=True)
class Suite:
    """A study as data. A new one is a list of cells; no other code depends on what they vary."""

    name: str
    title: str
    cells: Sequence[Cell]
    references: Mapping[str, str]  # factor -> the level that its others are compared with; the first is the subject
    options: Options  # of all cells
    phantom: Phantom
    seeds: int  # planned
    document: str  # below the home folder
    metrics: Mapping[str, str]  # short name -> key of report.json
    contrasts: Sequence[Contrast] = field(default=())
    tables: Sequence[str] = ("setup", "effects", "cells", "verdicts", "skill")  # in its document, besides the contrasts
    plots: Sequence[str] = ("effects", "skill")
    home: str = "docs"

    def levels(self, factor: str) -> list[str]:
        """All levels of a factor, in the order of the cells."""
        return list(dict.fromkeys(cell.levels[factor] for cell in self.cells))

    def runs(self, seeds: int) -> list[PlannedRun]:
        """All cells with seed 0, then all with seed 1, so that a study that is cut off has whole seeds.

        Within a seed the levels of the first factor follow each other, so that what is finished can be compared.
        """
        subject = next(iter(self.references))
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(tuple(v for k, v in cell.levels.items() if k != subject), []).append(cell)
        cells = [cell for group in groups.values() for cell in group]
        return [self._run(cell, seed) for seed in range(seeds) for cell in cells]

    def _run(self, cell: Cell, seed: int) -> PlannedRun:
        settings = {**self.options, **cell.options, "seed": seed}
        return PlannedRun(self.name, cell, seed, settings, self.phantom, self.metrics)


def grid(factors: Mapping[str, Mapping[str, tuple[str, Options]]]) -> list[Cell]:
    """Every combination of levels.

    Args:
        factors: factor -> level -> (its part of the cell's name, the options that make it). Later factors win where
            two set the same knob.
    """
    named = [[(factor, level, *made) for level, made in levels.items()] for factor, levels in factors.items()]
    return [_cell(parts) for parts in product(*named)]


def _cell(parts: Iterable[tuple[str, str, str, Options]]) -> Cell:
    parts = list(parts)
    options = {key: value for _, _, _, made in parts for key, value in made.items()}
    return Cell("-".join(name for _, _, name, _ in parts), {factor: level for factor, level, _, _ in parts}, options)
