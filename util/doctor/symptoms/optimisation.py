"""Faults of the optimizer steps: not finite, too small, too large."""

from statistics import mean

from util.base.text import first_few
from util.doctor.symptoms.cause import (
    FAILING,
    SUSPICIOUS,
    Cause,
    denoising_learns,
    has_trained,
    is_still_early,
    keeps_validation_ap,
    last_after,
    separation,
)
from util.runlog.history import History

NO_RATE = 1e-9
HARDLY_A_RATE = 1e-6
HIGH_RATE = 2e-3  # AdamW on a DETR trains at 1e-4 with large and at up to 1e-3 with small networks


def not_finite(history: History) -> Cause | None:
    """Optimizer steps were skipped because the loss or the gradient was not finite."""
    if not history.not_finite:
        return None
    last = history.not_finite[-1]
    if "step" not in last:
        return _epochs_not_finite(history)
    is_end = last["step"] >= max((epoch.get("step") or 0 for epoch in history.epochs), default=0)
    evidence = f"{len(history.not_finite)} optimizer steps with a loss or gradient that is not finite"
    evidence += f", the last one after step {last['step']:.0f} in epoch {last['epoch']:.0f}: {last.get('terms', '?')}"
    fix = "a lower lr, a longer warmup_steps or amp='off'; nonfinite*.json in the run folder names the images"
    return Cause("not_finite", FAILING if is_end else SUSPICIOUS, evidence, fix, 95)


def _epochs_not_finite(history: History) -> Cause:
    """The loss is not finite, in a log that has epochs only."""
    epochs = [row["epoch"] for row in history.not_finite]
    is_end = history.last is None or epochs[-1] >= history.last.number
    evidence = f"the training loss is not finite in {first_few([f'epoch {n}' for n in epochs], 5)}"
    fix = "a lower lr, a longer warm-up, or no mixed precision"
    return Cause("not_finite", FAILING if is_end else SUSPICIOUS, evidence, fix, 95)


def loss_not_finite(history: History) -> Cause | None:
    """The loss in the log is NaN or infinite."""
    last = history.last
    if last is None or "loss" not in last.metrics or last.get("loss") is not None or last.metrics["loss"] is None:
        return None
    evidence = f"the loss of epoch {last.number} is {last.metrics['loss']}"
    return Cause("not_finite", FAILING, evidence, "a lower lr, a longer warm-up, or no mixed precision", 95)


def learning_rate_zero(history: History) -> Cause | None:
    """The learning rate is zero, or so small that the loss does not change."""
    last = history.last
    if last is None or (rate := last.get("lr")) is None:
        return None
    if not last.is_whole and len(history.epochs) == 1 and rate > 0:
        return None
    losses = [value for _, value in history.series("loss")]
    is_from_the_start = history.epochs[0].number == 0  # a log that begins later does not show what was learned before
    is_constant = is_from_the_start and len(losses) > 1 and abs(losses[-1] - losses[0]) < 0.05 * abs(losses[0])
    if _is_the_end_of_a_schedule(history) or not (rate < NO_RATE or (rate < HARDLY_A_RATE and is_constant)):
        return None
    evidence = f"the learning rate is {rate:g} in epoch {last.number}"
    evidence += f"; the loss was {losses[0]:.4g} in the first epoch and is {losses[-1]:.4g}" if is_constant else ""
    fix = "set lr (1e-4 is usual; lr_backbone 1e-5), and check warmup_steps, lr_drop and lr_drop_factor"
    return Cause("learning_rate_zero", FAILING, evidence, fix, 90)


def _is_the_end_of_a_schedule(history: History) -> bool:
    """Whether the rate decays to zero in the last epochs of the run, as with a cosine schedule."""
    rates = [rate for _, rate in history.series("lr")]
    if history.epochs[0].number == 0 and max(rates) <= HARDLY_A_RATE:
        return False
    if len(rates) > 1 and rates[-2] > HARDLY_A_RATE:
        return True
    if planned := history.config.get("epochs"):
        return history.epochs[-1].number + 1 >= 0.9 * planned
    return any(rate >= NO_RATE for rate in rates[-3:])


def learning_rate_too_high(history: History) -> Cause | None:
    """Every step is clipped, and not even the denoising queries learn."""
    if (last := last_after(history, 2)) is None:
        return None
    rate = last.get("lr")
    skill = last.get("class_skill")
    clipped = None if history.config.get("clip_max_norm") == 0 else last.get("clipped_share")  # 0: no clipping
    ratio = separation(last)
    if skill is None or skill > 0 or rate is None or rate < HARDLY_A_RATE or (clipped is not None and clipped < 0.9):
        return None
    if keeps_validation_ap(history) or denoising_learns(history) is not False or (ratio is not None and ratio > 1.15):
        return None
    high = max(rate for _, rate in history.series("lr"))
    is_high = high >= HIGH_RATE
    if not is_high and is_still_early(history):
        return None
    evidence = f"class skill is {skill:+.2f} in epoch {last.number} and denoising queries learn little"
    if clipped is not None:
        evidence += f", {clipped:.0%} of the steps were clipped (mean gradient norm {last.get('grad_norm') or 0:.3g})"
    evidence += f", at a learning rate of up to {high:g}"
    fix = "a lower lr (1e-4 is usual), a longer warmup_steps"
    return Cause("learning_rate_too_high", FAILING if is_high else SUSPICIOUS, evidence, fix, 80 if is_high else 40)


def loss_rises(history: History) -> Cause | None:
    """The training loss rises: mean over three epochs compared with the lowest such mean before."""
    losses = history.series("loss")
    means = [mean(value for _, value in losses[i - 3 : i]) for i in range(3, len(losses) + 1)]
    if len(means) < 3 or not has_trained(history, 5):
        return None
    rise = means[-1] / max(min(means), 1e-12) - 1
    names = ("all/agnostic/AP50", "all/per_class/AP50", "model/all/per_class/AP50")
    values = [v for name in names for _, v in history.evaluated(name)]
    is_poor = len(values) >= 5 and max(values) < 0.1
    if rise < 0.05:
        return None
    lowest = losses[means.index(min(means)) + 1][0]
    evidence = f"the training loss, as mean of three epochs, is {rise:.0%} above its lowest value around epoch {lowest}"
    evidence += f"; the best AP50 so far is {max(values):.3f}" if is_poor else ""
    fix = "a lower lr or an earlier lr_drop, a smaller clip_max_norm, a larger total batch"
    has_effect = rise >= 0.10 and not keeps_validation_ap(history)
    level = FAILING if has_effect or (is_poor and rise > 0.06) else SUSPICIOUS
    return Cause("loss_rises", level, evidence, fix, 70)


def boxes_diverge(history: History) -> Cause | None:
    """The box losses rise."""
    for name in ("loss_giou", "loss_bbox"):
        values = history.series(name)
        if len(values) < 3 or not has_trained(history, 3):
            continue
        lowest = min(value for _, value in values)
        now = min(value for _, value in values[-2:])
        if now > 1.5 * lowest > 0:
            evidence = f"{name} is {now:.4g} and was {lowest:.4g}; it should fall"
            fix = "a lower lr; is bbox_loss_coef or giou_loss_coef 0?"
            has_effect = now > 2 * lowest and not keeps_validation_ap(history)
            return Cause("boxes_diverge", FAILING if has_effect else SUSPICIOUS, evidence, fix, 60)
    return None
