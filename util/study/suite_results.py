"""The results of a suite, and the files made from them: rows, document and plots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from util.base.files import write_atomically
from util.study.design import PlannedRun, Suite
from util.study.document import Document
from util.study.planning import pending
from util.study.plots import PLOTS
from util.study.results import RunResult, load_results, require_same_settings, save_results
from util.study.runs import StudyFolders, finished_before
from util.study.tables import sections


class SuiteResults:
    """The results of a suite.

    Args:
        suite: the study.
        home: folder of rows, document and plots.
        folders: of runs and data.
    """

    def __init__(self, suite: Suite, home: Path, folders: StudyFolders) -> None:
        self.suite = suite
        self.home = home
        self.folders = folders
        self.file = home / "study" / f"{suite.name}.jsonl"
        self.rows = load_results(self.file, suite)

    def pending(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """The runs that are not done."""
        return pending(runs, {row.key for row in self.rows.values() if row.is_done})

    def save(self, result: RunResult) -> None:
        """Add or replace a result, and write the file."""
        self.rows[result.key] = result
        save_results(self.file, self.suite, self.rows.values())

    def collect(self, runs: Sequence[PlannedRun]) -> None:
        """Add the results of runs that finished elsewhere or before, from their folders."""
        for run in self.pending(runs):
            if result := finished_before(run, self.folders):
                require_same_settings(self.suite, result, str(self.folders.run(run)))
                self.rows[result.key] = result
        if self.rows:
            save_results(self.file, self.suite, self.rows.values())

    def rebuild(self, writer: str) -> str:
        """Write tables and plots; return a line about it.

        Args:
            writer: the program that the markers in the document name.
        """
        done = [row for row in self.rows.values() if row.is_done]
        document = self.home / self.suite.document
        Document(document, writer).rewrite(self.suite.title, sections(self.suite, done))
        for name in self.suite.plots:
            path = self.home / "images" / f"study_{self.suite.name}_{name}.png"
            figure = PLOTS[name](self.suite, done)
            write_atomically(path, partial(figure.savefig, format="png", metadata={"Software": None}))
        return f"{document}: tables and plots of {len(done)} runs"
