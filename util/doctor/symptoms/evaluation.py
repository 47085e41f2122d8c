"""What the evaluations say, alone and against training."""

from statistics import mean

from util.doctor.expectations import expectations
from util.doctor.symptoms.cause import (
    EARLY,
    FAILING,
    NOTE,
    SUSPICIOUS,
    Cause,
    has_trained,
    is_still_early,
    whole_epochs,
)
from util.runlog.history import History

FEWEST_BOXES = 50  # in training, before recall means something
AP = "all/per_class/AP"
AP50 = "all/agnostic/AP50"
UNAVERAGED = "model/all/per_class/AP50"  # of official logs that judge both
LATE = 10  # epochs after which, and EARLY steps, a run that finds next to nothing will not begin to


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
    """The averaged weights that are judged still hold those from before training."""
    config, last = history.config, history.last
    if worse := _average_is_worse(history):
        return worse
    if not config.get("use_ema") or last is None or last.get("step") is None or not last.is_whole:
        return None
    planned = last.get("step") / (last.number + 1) * config.get("epochs", 0)
    horizon = 1 / max(1e-12, 1 - config.get("ema_decay", 0.0))
    if planned >= 3 * horizon or config.get("ema_warmup_steps", 0) >= planned:
        return None
    evidence = f"ema_decay averages over {horizon:.0f} steps, and the whole training has {planned:.0f}"
    ap50 = last.evaluated(AP50)
    recall = last.get("recall_top10")
    is_felt = ap50 is not None and recall is not None and recall > 0.5 and ap50 < 0.1
    mend = f"ema_decay = {max(0.0, 1 - 10 / max(planned, 10)):.4g} or less, or use_ema = False"
    return Cause("average_too_slow", SUSPICIOUS if is_felt or planned < horizon else NOTE, evidence, mend, 50)


def _average_is_worse(history: History) -> Cause | None:
    """The same from a log that judges the weights themselves, too."""
    plain = history.evaluated(UNAVERAGED)[-2:]
    averaged = history.evaluated("all/per_class/AP50")[-2:]
    if min(len(plain), len(averaged)) < 2 or min(p for _, p in plain) < 0.1:
        return None
    if max(a for _, a in averaged) > min(p for _, p in plain) / 3:
        return None
    evidence = f"AP50 of the averaged weights is {averaged[-1][1]:.3f}, of the weights themselves {plain[-1][1]:.3f}"
    return Cause("average_too_slow", SUSPICIOUS, evidence, "a smaller ema_decay; judge the weights themselves", 50)


def training_does_not_carry_over(history: History) -> Cause | None:
    """Boxes are found in training, and not in validation."""
    last = whole_epochs(history)[-1] if has_trained(history, 3) else None
    recall, ap50 = (last.get("recall_top10"), last.evaluated(AP50)) if last else (None, None)
    if recall is None or ap50 is None or recall < 0.6 or ap50 > 0.05 or average_too_slow(history):
        return None
    skill = last.get("class_skill")
    boxes = last.get("boxes")
    if (skill is not None and skill < 0.1) or (boxes is not None and boxes < FEWEST_BOXES):  # found, and not sure of it
        return None
    evidence = f"recall@10 is {recall:.2f} in training, AP50 {ap50:.3f} in validation"
    mend = "are boxes and images of both lists in the same frame? Is the evaluation size data_eval_scale like training?"
    return Cause("training_does_not_carry_over", FAILING, evidence, mend, 45)


def validation_near_zero(history: History) -> Cause | None:
    """Many evaluations, or late ones, and none found anything."""
    series = [found for name in (AP50, "all/per_class/AP50", UNAVERAGED) if (found := history.evaluated(name))]
    judged = history.evaluated("all/per_class/AP50")
    is_late = bool(judged) and judged[-1][0] + 1 >= LATE  # a resumed run's log may begin late
    fewest = 2 if is_late else 5
    best = max((value for found in series for _, value in found), default=0.0)
    if len(judged) < fewest or best >= 0.1 or not has_trained(history, fewest) or is_still_early(history):
        return None
    evidence = f"the best AP50 of {len(judged)} evaluations is {best:.3f}"
    steps = history.epochs[-1].get("step")
    lately = max(value for found in series for _, value in found[-3:])
    if is_late and (steps is None or steps >= EARLY) and len(judged) >= 3 and lately < 0.03:
        evidence += f", of the last three {lately:.3f}, after {judged[-1][0] + 1} epochs"
        mend = "start anew: a lower lr, a larger focal_alpha, the weights and data of a run that worked"
        return Cause("validation_near_zero", FAILING, evidence, mend, 25)
    mend = "see the other causes; a run of this length should find more"
    return Cause("validation_near_zero", SUSPICIOUS, evidence, mend, 30)


def below_expectation(history: History) -> Cause | None:
    """A line of the tbx11k recipes' plan is not met."""
    missed = [line for line in expectations(history) if line.is_met is False]
    if not missed:
        return None
    level = SUSPICIOUS if any(line.is_sure for line in missed) else NOTE
    return Cause(
        "below_expectation", level, "; ".join(line.text for line in missed), "compare config.py with the recipe", 25
    )


CHECKS = (
    validation_falls,
    average_too_slow,
    training_does_not_carry_over,
    validation_near_zero,
    below_expectation,
)
