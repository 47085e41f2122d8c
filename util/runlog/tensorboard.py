"""The rows of log.jsonl as scalars of TensorBoard. Optional: nothing here is imported before somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.numbers import number
from util.base.text import printable
from util.runlog.rows import Row

FOLDER = "tensorboard"  # in the run folder
KINDS = ("train", "epoch", "eval")  # of the rows that become scalars
Make = Callable[..., Any]  # the class SummaryWriter, or something that does as it does


def load_summary_writer() -> Make:
    """The class that writes TensorBoard's files.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"tensorboard = True, but TensorBoard cannot be imported ({error}); pip install tensorboard, or leave it "
            "out: --options tensorboard=False"
        ) from error
    return SummaryWriter


class ScalarWriter:
    """Keeps RUN/tensorboard equal to the rows of RUN/log.jsonl.

    Args:
        make: what `load_summary_writer` gives.
        folder: where to write.
        rows: what log.jsonl holds already. TensorBoard drops what it has from their last step on, for a run that was
            cut off may have written more than its checkpoint knows; the rows of that step are written again. A folder
            that is not there gets all of them.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, make: Make, folder: Path, rows: Sequence[Row]) -> None:
        self.folder = folder
        kept = [row for row in rows if is_scalar_row(row)]
        since = max((row["step"] for row in kept), default=0) if folder.exists() else 0
        try:
            self._writer = make(log_dir=str(folder), purge_step=since)
        except OSError as error:
            raise self._cannot_write(error) from error
        for row in kept:
            if row["step"] >= since:
                self.add(row)

    def add(self, row: Row) -> None:
        """Write a row, to the disk; one that holds no figures of a step is left out."""
        if not is_scalar_row(row):
            return
        try:
            for tag, value in scalars(row):
                self._writer.add_scalar(tag, value, row["step"])
            self._writer.flush()  # its own thread dies with the process, and what it holds is lost
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder}: cannot be written ({error}); make room, or go on without: --options tensorboard=False"
        )


def is_scalar_row(row: Row) -> bool:
    """Whether a row is of a step of this training; evaluations by a command of their own name a checkpoint."""
    return row["kind"] in KINDS and type(row.get("step")) is int and "checkpoint" not in row


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """Tag and value of each finite number of a row: `train/loss`, `train/boxes_by_category/1`, `eval/all/image/auc`."""
    for name, value in row.items():
        parts = {f"/{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {"": value}
        for end, part in parts.items():
            if name not in ("epoch", "step") and (found := number(part)) is not None:
                yield printable(f"{row['kind']}/{name}{end}"), found
