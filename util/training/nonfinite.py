"""Steps whose loss or gradient is not finite: what is told and kept of them, so that they can be looked into."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from util.base.files import write_whole
from util.detection.batch import Batch, Window
from util.distributed.collectives import gather_objects
from util.runlog.run_log import RunLog
from util.training.precision import Precision

CHECKPOINT = "nonfinite.pth"
FLOOR = 1.0  # a loss scale below it: the gradients themselves leave the range of fp16, not the scaled ones
MOST_TERMS = 3  # in a message
MENDS = "A lower lr, a longer warm-up or amp='off' are the usual mends"


def examine(
    window: Window, losses: list[dict[str, Tensor]], files: Mapping[int, str], precision: Precision
) -> list[list[dict[str, Any]]] | None:
    """What all ranks know of a window whose step was not taken, or None where only fp16 overflowed.

    All ranks must call it together. The loss scale has been lowered already, which mends an overflow; below `FLOOR`
    there is nothing to lower.
    """
    accounts = gather_objects(account(window, losses, files))
    values = [value for batches in accounts for batch in batches for value in batch["losses"].values()]
    is_overflow = precision.skips_overflow and precision.loss_scale >= FLOOR and all(map(math.isfinite, values))
    return None if is_overflow else accounts


def tell(log: RunLog, position: dict[str, int], accounts: list[list[dict[str, Any]]], grad_norm: Tensor) -> str:
    """Write down a step that was not taken, in a file of its own and as a row of the log; what to say of it.

    Only the rank that has a log writes.
    """
    if log.folder is None:
        return ""
    path = save_account(log.folder, position, accounts, grad_norm.item())
    terms = suspects(accounts)
    log.row("nonfinite", epoch=position["epoch"], step=position["step"], terms=terms)
    where = f"epoch {position['epoch']}, after step {position['step']}"
    return f"{where}: not finite: {terms}. The optimizer step was not taken; {path} has its images and losses"


def account(window: Window, losses: list[dict[str, Tensor]], files: Mapping[int, str]) -> list[dict[str, Any]]:
    """The batches of a window on this rank, in plain values: image ids, files and noise seeds, losses."""
    return [
        {
            "images": [] if batch.is_ghost else _images(batch, files),
            "losses": {name: value.item() for name, value in part.items()},
        }
        for batch, part in zip(window.batches, losses, strict=True)
    ]


def _images(batch: Batch, files: Mapping[int, str]) -> list[dict[str, Any]]:
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


def suspects(ranks: list[list[dict[str, Any]]]) -> str:
    """The batches whose loss is not finite and the terms that are not, or else that it is the gradient."""
    found = []
    for batch in (batch for batches in ranks for batch in batches if batch["images"]):  # ghosts repeat one of these
        bad = {name: value for name, value in batch["losses"].items() if not math.isfinite(value)}
        if bad:
            names = ", ".join(image["file"] for image in batch["images"])
            found.append(f"{first_terms(bad)} on {names}")
    return "; ".join(found) or "all losses are finite, the gradient is not"


def first_terms(bad: dict[str, float]) -> str:
    """The total and the first terms."""
    terms = [f"{name} {value}" for name, value in bad.items()]
    more = len(terms) - MOST_TERMS
    return ", ".join(terms[:MOST_TERMS]) + (f" and {more} more terms" if more > 0 else "")


def save_account(folder: Path, position: dict[str, int], ranks: list[list[dict[str, Any]]], grad_norm: float) -> Path:
    """Write what all ranks know of the window; the path."""
    path = folder / f"nonfinite_epoch{position['epoch']:04d}_window{position['window']:06d}.json"
    content = _plain({**position, "grad_norm": grad_norm, "ranks": ranks})
    write_whole(path, lambda file: file.write(json.dumps(content, indent=1, allow_nan=False).encode()))
    return path


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers become text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
