"""The rows of log.jsonl as scalars of TensorBoard, which is imported only if it is used."""

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
WriterFactory = Callable[..., Any]  # the class SummaryWriter or a compatible one


def load_summary_writer() -> WriterFactory:
    """Import TensorBoard's SummaryWriter class.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"tensorboard = True, but TensorBoard cannot be imported ({error}); pip install tensorboard, or switch it "
            "off: --options tensorboard=False"
        ) from error
    return SummaryWriter


class ScalarWriter:
    """Keeps RUN/tensorboard equal to the rows of RUN/log.jsonl.

    Args:
        factory: the result of `load_summary_writer`.
        folder: where to write.
        rows: the rows that log.jsonl already holds. TensorBoard drops its points from their last step on, as an
            interrupted run may have written more than its checkpoint knows; the rows of that step are written again.
            A missing folder gets all rows.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, factory: WriterFactory, folder: Path, rows: Sequence[Row]) -> None:
        self.folder = folder
        kept = [row for row in rows if is_scalar_row(row)]
        since = max((row["step"] for row in kept), default=0) if folder.exists() else 0
        try:
            self._writer = factory(log_dir=str(folder), purge_step=since)
        except OSError as error:
            raise self._cannot_write(error) from error
        for row in kept:
            if row["step"] >= since:
                self.add(row)

    def add(self, row: Row) -> None:
        """Write a row and flush it; a row without metrics of a step is ignored."""
        if not is_scalar_row(row):
            return
        try:
            for tag, value in scalars(row):
                self._writer.add_scalar(tag, value, row["step"])
            self._writer.flush()  # otherwise its thread holds them, and they are lost if the process is killed
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder}: cannot be written ({error}); free some space, or use --options tensorboard=False"
        )


def is_scalar_row(row: Row) -> bool:
    """Return whether a row is of a step of this training; rows of separate evaluations name a checkpoint."""
    return row["kind"] in KINDS and type(row.get("step")) is int and "checkpoint" not in row


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """Yield tag and value of each finite number of a row: `train/loss`, `train/boxes_by_category/1`, ..."""
    for name, value in row.items():
        parts = {f"/{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {"": value}
        for suffix, part in parts.items():
            if name not in ("epoch", "step") and (scalar := number(part)) is not None:
                yield printable(f"{row['kind']}/{name}{suffix}"), scalar
