"""Faults that the evaluations show, alone and compared with training."""

from statistics import mean

from util.doctor.symptoms.cause import (
    EARLY_STEPS,
    FAILING,
    NOTE,
    SUSPICIOUS,
    Cause,
    has_trained,
    is_still_early,
    last_after,
)
from util.runlog.history import History

MIN_BOXES = 50  # in training, before recall means something
AP = "all/per_class/AP"
AP50 = "all/agnostic/AP50"
AP50_PER_CLASS = "all/per_class/AP50"
UNAVERAGED = "model/all/per_class/AP50"  # of official logs that evaluate both
LATE = 10  # epochs after which, and EARLY_STEPS steps, a run with AP50 near zero does not recover


def validation_falls(history: History) -> Cause | None:
    """AP falls while the training loss goes on falling: overfitting."""
    values = history.evaluated(AP)
    losses = dict(history.series("loss"))
    if len(values) < 6 or not has_trained(history, 6):
        return None
    means = [(values[i][0], mean(v for _, v in values[i - 2 : i + 1])) for i in range(2, len(values))]
    (peak_epoch, peak) = max(means, key=lambda pair: pair[1])
    (_, now) = means[-1]
    at_peak = losses.get(peak_epoch)
    at_end = losses.get(values[-1][0])
    if peak < 0.02 or now > 0.75 * peak or at_peak is None or at_end is None or at_end > at_peak:
        return None
    evidence = (
        f"AP, as mean of three evaluations, fell from {peak:.3f} around epoch {peak_epoch} to {now:.3f}, while the "
        f"training loss fell from {at_peak:.3g} to {at_end:.3g}"
    )
    return Cause("validation_falls", SUSPICIOUS, evidence, "fewer epochs, more data_aug_, a larger weight_decay", 60)


def average_too_slow(history: History) -> Cause | None:
    """The evaluated EMA weights are still dominated by those from before training."""
    config = history.config
    last = history.last
    if worse := _average_is_worse(history):
        return worse
    if not config.get("use_ema") or last is None or (step := last.get("step")) is None or not last.is_whole:
        return None
    planned = step / (last.number + 1) * config.get("epochs", 0)
    horizon = 1 / max(1e-12, 1 - config.get("ema_decay", 0.0))
    if planned >= 3 * horizon or config.get("ema_warmup_steps", 0) >= planned:
        return None
    evidence = f"ema_decay averages over {horizon:.0f} steps, and the whole training has {planned:.0f}"
    ap50 = last.evaluated(AP50)
    recall = last.get("recall_top10")
    has_effect = ap50 is not None and recall is not None and recall > 0.5 and ap50 < 0.1
    fix = f"ema_decay = {max(0.0, 1 - 10 / max(planned, 10)):.4g} or less, or use_ema = False"
    return Cause("average_too_slow", SUSPICIOUS if has_effect or planned < horizon else NOTE, evidence, fix, 50)


def _average_is_worse(history: History) -> Cause | None:
    """The EMA is far worse than the weights themselves, in a log that evaluates both."""
    plain = history.evaluated(UNAVERAGED)[-2:]
    averaged = history.evaluated(AP50_PER_CLASS)[-2:]
    if min(len(plain), len(averaged)) < 2 or min(p for _, p in plain) < 0.1:
        return None
    if max(a for _, a in averaged) > min(p for _, p in plain) / 3:
        return None
    evidence = f"AP50 of the averaged weights is {averaged[-1][1]:.3f}, of the weights themselves {plain[-1][1]:.3f}"
    return Cause("average_too_slow", SUSPICIOUS, evidence, "a smaller ema_decay; evaluate the weights themselves", 50)


def training_does_not_carry_over(history: History) -> Cause | None:
    """Boxes are detected in training but not in validation."""
    if (last := last_after(history, 3)) is None:
        return None
    recall = last.get("recall_top10")
    ap50 = last.evaluated(AP50)
    if recall is None or ap50 is None or recall < 0.6 or ap50 > 0.05 or average_too_slow(history):
        return None
    skill = last.get("class_skill")
    boxes = last.get("boxes")
    if (skill is not None and skill < 0.1) or (boxes is not None and boxes < MIN_BOXES):  # recall without certainty
        return None
    evidence = f"recall@10 is {recall:.2f} in training, AP50 {ap50:.3f} in validation"
    fix = "are boxes and images of both lists in the same frame? Is the evaluation size data_eval_scale like training?"
    return Cause("training_does_not_carry_over", FAILING, evidence, fix, 45)


def validation_near_zero(history: History) -> Cause | None:
    """AP50 is near zero in many evaluations, or in late ones."""
    series = [found for name in (AP50, AP50_PER_CLASS, UNAVERAGED) if (found := history.evaluated(name))]
    evaluations = history.evaluated(AP50_PER_CLASS)
    is_late = bool(evaluations) and evaluations[-1][0] + 1 >= LATE  # a resumed run's log may begin late
    fewest = 2 if is_late else 5
    best = max((value for found in series for _, value in found), default=0.0)
    if len(evaluations) < fewest or best >= 0.1 or not has_trained(history, fewest) or is_still_early(history):
        return None
    evidence = f"the best AP50 of {len(evaluations)} evaluations is {best:.3f}"
    steps = history.epochs[-1].get("step")
    lately = max(value for found in series for _, value in found[-3:])
    if is_late and (steps is None or steps >= EARLY_STEPS) and len(evaluations) >= 3 and lately < 0.03:
        evidence += f", of the last three {lately:.3f}, after {evaluations[-1][0] + 1} epochs"
        fix = "restart: a lower lr, a larger focal_alpha, the weights and data of a run that worked"
        return Cause("validation_near_zero", FAILING, evidence, fix, 25)
    fix = "see the other causes; a run of this length should detect more"
    return Cause("validation_near_zero", SUSPICIOUS, evidence, fix, 30)
