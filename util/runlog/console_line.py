"""The console line of training: the ten figures that matter, or with `--verbose_losses` every loss term besides."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

NOTHING = "-"  # no image or box to take a figure of
MIN_BOXES_FOR_SHARE = 10  # boxes; of fewer no share is told, since "100 % wrong" is soon true of two
# not among the loss terms: told already, or, as the median over steps of which most have no box, read as a collapse
NO_TERMS = ("loss_with_boxes", "loss_without_boxes", "loss_median")


def train_line(
    epoch: int, window: int, num_windows: int, eta: float, row: Mapping[str, Any], *, steps: int, is_verbose: bool
) -> str:
    """One line of the console.

    Args:
        epoch: from 0 on.
        window: optimizer steps done in it, of `num_windows`.
        eta: seconds to the end of the epoch.
        row: figures of the last `steps` steps, and `lr`, `time`, `data`, `max_mem_mb`, `skipped` of the row.
        steps: what the figures are of.
        is_verbose: all loss terms follow, where there was a box.
    """
    has_boxes = bool(row.get("boxes"))  # without any, the loss is that of empty images alone
    terms = [k for k in row if k.startswith("loss_") and k not in NO_TERMS] if is_verbose and has_boxes else []
    width = len(str(num_windows))
    shares = row if row.get("boxes", 0) >= MIN_BOXES_FOR_SHARE else {}
    matched = shares.get("class_error_n", 0)
    error = f"{row['class_error']:.1f} % of {matched}" if matched else NOTHING
    parts = [
        f"Epoch: [{epoch}]",
        f"[{window:{width}d}/{num_windows}]",
        f"eta: {timedelta(seconds=int(eta))}",
        f"lr: {row['lr']:.3g}",
        f"last {steps} steps: {row.get('boxes', 0)} boxes on {row.get('images', 0)} images",
        f"loss: {told(row, 'loss') if has_boxes else NOTHING}",
        f"per image with boxes: {told(row, 'loss_with_boxes')} without: {told(row, 'loss_without_boxes')}",
        f"skill: {told(shares, 'class_skill', '+.2f')}",
        f"class_error: {error}",
        f"recall@10: {told(shares, 'recall_top10', '.2f')}",
        f"best score with: {told(row, 'best_score_with_boxes', '.2f')}"
        f" without: {told(row, 'best_score_without_boxes', '.2f')}",
        f"grad_norm: {told(row, 'grad_norm', '.2f')} ({told(row, 'clipped_share', '.0%')} clipped)",
        *([f"skipped: {row['skipped']}"] if row.get("skipped") else []),
        f"time: {row['time']:.3f} (data {row['data'] / row['time'] if row['time'] else 0.0:.0%})",
        f"max mem: {row['max_mem_mb']:.0f}",
        *(f"{k}: {told(row, k)}" for k in terms),
    ]
    return "  ".join(parts)


def told(row: Mapping[str, Any], name: str, form: str = ".4f") -> str:
    """A figure, or `NOTHING`."""
    value = row.get(name)
    return NOTHING if value is None else format(value, form)
