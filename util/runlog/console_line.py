"""The console line of training: the main metrics, and with `--verbose_losses` every loss term."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

MISSING = "-"  # no image or box to compute the value from
MIN_BOXES_FOR_SHARE = 10  # below this many boxes a percentage is noise
# not repeated as loss terms: shown already, or misleading, as most steps of the median have no box
NOT_REPEATED = ("loss_with_boxes", "loss_without_boxes", "loss_median")


def train_line(
    epoch: int, window: int, num_windows: int, eta: float, row: Mapping[str, Any], *, steps: int, is_verbose: bool
) -> str:
    """Format one line of the console.

    Args:
        epoch: from 0 on.
        window: optimizer steps done in it, of `num_windows`.
        eta: seconds to the end of the epoch.
        row: metrics of the last `steps` steps, and `lr`, `time`, `data`, `max_mem_mb`, `skipped` of the last row.
        steps: number of steps the metrics are computed from.
        is_verbose: append all loss terms, if there was a box.
    """
    has_boxes = bool(row.get("boxes"))  # without boxes the loss is that of empty images alone
    terms = [k for k in row if k.startswith("loss_") and k not in NOT_REPEATED] if is_verbose and has_boxes else []
    width = len(str(num_windows))
    shares = row if row.get("boxes", 0) >= MIN_BOXES_FOR_SHARE else {}
    matched = shares.get("class_error_n", 0)
    error = f"{row['class_error']:.1f} % of {matched}" if matched else MISSING
    parts = [
        f"Epoch: [{epoch}]",
        f"[{window:{width}d}/{num_windows}]",
        f"eta: {timedelta(seconds=int(eta))}",
        f"lr: {row['lr']:.3g}",
        f"last {steps} steps: {row.get('boxes', 0)} boxes on {row.get('images', 0)} images",
        f"loss: {format_value(row, 'loss') if has_boxes else MISSING}",
        f"per image with boxes: {format_value(row, 'loss_with_boxes')}"
        f" without: {format_value(row, 'loss_without_boxes')}",
        f"skill: {format_value(shares, 'class_skill', '+.2f')}",
        f"class_error: {error}",
        f"recall@10: {format_value(shares, 'recall_top10', '.2f')}",
        f"best score with: {format_value(row, 'best_score_with_boxes', '.2f')}"
        f" without: {format_value(row, 'best_score_without_boxes', '.2f')}",
        f"grad_norm: {format_value(row, 'grad_norm', '.2f')} ({format_value(row, 'clipped_share', '.0%')} clipped)",
        *([f"skipped: {row['skipped']}"] if row.get("skipped") else []),
        f"time: {row['time']:.3f} (data {row['data'] / row['time'] if row['time'] else 0.0:.0%})",
        f"max mem: {row['max_mem_mb']:.0f}",
        *(f"{k}: {format_value(row, k)}" for k in terms),
    ]
    return "  ".join(parts)


def format_value(row: Mapping[str, Any], name: str, spec: str = ".4f") -> str:
    """Format a value of a row, or return `MISSING`."""
    value = row.get(name)
    return MISSING if value is None else format(value, spec)
