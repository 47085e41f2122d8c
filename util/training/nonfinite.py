"""Steps whose loss or gradient is not finite: record their images and losses, then skip the step or stop the run."""

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from util.base.errors import ReportedByOtherRank
from util.base.files import write_atomically
from util.detection.batch import Batch, Window
from util.distributed.collectives import gather_objects, wait_for_all
from util.distributed.exit_codes import FAILED
from util.runlog.training_log import TrainingLog
from util.training.precision import Precision
from util.training.run_folder import RunFolder
from util.training.run_state import RunState

CHECKPOINT = "nonfinite.pth"
MIN_LOSS_SCALE = 1.0  # below it the gradients themselves leave the range of fp16, not the scaled ones
MAX_TERMS = 3  # in a message
FIXES = "A lower lr, a longer warm-up or amp='off' are the usual fixes"
Record = dict[str, Any]  # of a batch, in plain values: its images and its losses


def skip_or_stop(
    folder: RunFolder,
    state: RunState[Any],
    training_log: TrainingLog,
    window: Window,
    losses: list[dict[str, Tensor]],
    grad_norm: Tensor,
    files: Mapping[int, str],
) -> None:
    """Handle a step that was not taken: skip it while the config allows it, else stop; all ranks call it together.

    Args:
        folder: of the run; it gets the record of the step and, before a stop, a checkpoint that repeats it.
        state: before the step; it counts the skipped steps.
        training_log: what it has collected goes into the checkpoint.
        window: the images of the step on this rank.
        losses: of each batch of the window.
        grad_norm: the gradient's norm, the same on all ranks.
        files: image files by id.

    Raises:
        FloatingPointError: no further step may be skipped; ReportedByOtherRank on the other ranks.
    """
    records = gather_objects(records_of(window, losses, files))
    if is_overflow(records, state.precision):
        return
    runtime = folder.config.runtime
    position = {"epoch": state.epoch, "window": state.window, "step": state.step, "seed": runtime.seed}
    reason = write_record(folder, position, records, grad_norm.item())
    if state.skipped < runtime.skip_nonfinite_steps:
        state.skipped += 1
        folder.log.info(f"warning: {reason}. Skipped, {state.skipped} of at most {runtime.skip_nonfinite_steps}")
        return
    state.collected = training_log.state()
    folder.save_checkpoint(state, CHECKPOINT)
    wait_for_all()  # a rank that ended now would end the others, too
    if not folder.process.is_main:
        raise ReportedByOtherRank(FAILED)
    repeat = f"--resume {folder.path / CHECKPOINT} --output_dir logs/NEW repeats it"
    raise FloatingPointError(f"{reason}, and {repeat}. Older checkpoints are untouched. {FIXES}")


def is_overflow(records: list[list[Record]], precision: Precision) -> bool:
    """Whether only the loss scale of fp16 was too large, which has been lowered already."""
    values = [value for batches in records for batch in batches for value in batch["losses"].values()]
    return precision.skips_overflow and precision.loss_scale >= MIN_LOSS_SCALE and all(map(math.isfinite, values))


def write_record(folder: RunFolder, position: dict[str, int], records: list[list[Record]], grad_norm: float) -> str:
    """Write the record of all ranks into a file and a row of the log, on the main rank; the message."""
    if not folder.process.is_main:
        return ""
    path = folder.path / f"nonfinite_epoch{position['epoch']:04d}_window{position['window']:06d}.json"
    content = _plain({**position, "grad_norm": grad_norm, "ranks": records})
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=1, allow_nan=False).encode()))
    terms = nonfinite_terms(records)
    folder.log.row("nonfinite", epoch=position["epoch"], step=position["step"], terms=terms)
    where = f"epoch {position['epoch']}, after step {position['step']}"
    return f"{where}: not finite: {terms}. The optimizer step was not taken; {path} has its images and losses"


def records_of(window: Window, losses: list[dict[str, Tensor]], files: Mapping[int, str]) -> list[Record]:
    """The batches of a window on this rank: image ids, files and noise seeds, losses."""
    return [
        {
            "images": [] if batch.is_ghost else _images(batch, files),
            "losses": {name: value.item() for name, value in part.items()},
        }
        for batch, part in zip(window.batches, losses, strict=True)
    ]


def _images(batch: Batch, files: Mapping[int, str]) -> list[Record]:
    ids = [int(target["image_id"]) for target in batch.targets]
    return [
        {
            "id": image_id,
            "file": files[image_id],
            "size": target["size"].tolist(),
            "boxes": len(target["labels"]),
            "noise_seed": int(target["noise_seed"]),
        }
        for image_id, target in zip(ids, batch.targets, strict=True)
    ]


def nonfinite_terms(ranks: list[list[Record]]) -> str:
    """The loss terms that are not finite with the images of their batch; without any, that it is the gradient."""
    parts = []
    for batch in (batch for batches in ranks for batch in batches if batch["images"]):  # ghosts repeat one of these
        bad = {name: value for name, value in batch["losses"].items() if not math.isfinite(value)}
        if bad:
            names = ", ".join(image["file"] for image in batch["images"])
            parts.append(f"{first_terms(bad)} on {names}")
    return "; ".join(parts) or "all losses are finite, the gradient is not"


def first_terms(bad: dict[str, float]) -> str:
    """The total and the first terms."""
    terms = [f"{name} {value}" for name, value in bad.items()]
    more = len(terms) - MAX_TERMS
    return ", ".join(terms[:MAX_TERMS]) + (f" and {more} more terms" if more > 0 else "")


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers become text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
