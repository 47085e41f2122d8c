"""What a check returns, and the conditions that several checks share."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from util.runlog.history import Epoch, History

NOTE = "note"
SUSPICIOUS = "suspicious"
FAILING = "failing"
MIN_STEPS = 100  # optimizer steps in whole epochs before learning is evaluated
EARLY_STEPS = 5000  # optimizer steps before which a network that still improves is not called failing
MIN_IMAGES = 50  # with boxes, and without, before a mean over them is trusted


@dataclass(frozen=True)
class Cause:
    """A likely reason why the run does not learn."""

    name: str  # an identifier that stays the same over versions
    level: str  # NOTE, SUSPICIOUS or FAILING
    evidence: str  # the metrics that show it
    fix: str  # what to do about it, with the knob
    weight: int = 50  # of two causes of one level the heavier comes first: 90 is proof, 10 a guess


Check = Callable[[History], Cause | None]


def whole_epochs(history: History) -> list[Epoch]:
    """Epochs that are complete."""
    return [epoch for epoch in history.epochs if epoch.is_whole]


def last_after(history: History, epochs: int) -> Epoch | None:
    """The last whole epoch; None before this many of them, or before enough steps for metrics to mean something."""
    whole = whole_epochs(history)
    if len(whole) < epochs:
        return None
    steps = whole[-1].get("step")
    return whole[-1] if steps is None or steps >= MIN_STEPS else None  # a log without steps is trusted


def has_trained(history: History, epochs: int) -> bool:
    """Whether there are at least this many whole epochs, and enough steps for metrics to mean something."""
    return last_after(history, epochs) is not None


def separation(epoch: Epoch) -> float | None:
    """Ratio of the best score on images with boxes to that on images without; None where either kind is rare."""
    images = epoch.get("images")
    with_boxes = epoch.get("images_with_boxes")
    high = epoch.get("best_score_with_boxes")
    low = epoch.get("best_score_without_boxes")
    if images is None or with_boxes is None or high is None or not low:
        return None
    return high / low if min(with_boxes, images - with_boxes) >= MIN_IMAGES else None


def keeps_validation_ap(history: History) -> bool:
    """Whether validation AP50 is still about as high as ever in the last epochs.

    Training metrics that look bad are then on another scale (weights, augmentation, settings); the run is not failing.
    """
    return any(_is_kept(history, history.evaluated(name)) for name in ("all/agnostic/AP50", "all/per_class/AP50"))


def _is_kept(history: History, evaluations: list[tuple[int, float]]) -> bool:
    if not evaluations or evaluations[-1][0] < history.epochs[-1].number - 1:
        return False
    means = _running_means([value for _, value in evaluations], 2)  # one evaluation alone is noisy
    return means[-1] >= 0.1 and means[-1] >= 2 / 3 * max(means)


def is_still_early(history: History) -> bool:
    """Whether poor class scores may still improve: few steps so far, and skill or loss gets better.

    Small data and low learning rates take dozens of epochs to the first `EARLY_STEPS` steps.
    """
    steps = (whole_epochs(history) or [Epoch(0, {})])[-1].get("step")
    if steps is None or steps >= EARLY_STEPS:
        return False
    skills, losses = (
        _running_means([value for _, value in history.series(name)], 3) for name in ("class_skill", "loss")
    )
    gains = bool(skills) and skills[-1] > skills[0] + 0.1 and skills[-1] > max(skills) - 0.1
    return gains or (len(losses) > 1 and losses[-1] < 0.98 * losses[max(0, len(losses) - 4)])


def _running_means(values: list[float], window: int) -> list[float]:
    return [mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


def denoising_learns(history: History) -> bool | None:
    """Whether the denoising losses for classes and boxes fall; None where the log does not have them."""
    whole = whole_epochs(history)
    pairs = [(whole[0].get(n), whole[-1].get(n)) for n in ("loss_ce_dn", "loss_giou_dn")] if len(whole) > 1 else []
    known = [(first, last) for first, last in pairs if first and last is not None]
    return len(known) == 2 and known[0][1] < 0.6 * known[0][0] and known[1][1] < 0.98 * known[1][0] if known else None
