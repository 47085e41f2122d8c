"""What a check may find, and how long it should wait before it does."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from util.runlog.history import Epoch, History

NOTE = "note"
SUSPICIOUS = "suspicious"
FAILING = "failing"
FEWEST_STEPS = 100  # optimizer steps in whole epochs before anything is said of what the network has learned
EARLY = 5000  # optimizer steps before which a network that still gets better is not given up
FEWEST_IMAGES = 50  # of a kind before a mean over them is trusted


@dataclass(frozen=True)
class Cause:
    """A likely reason."""

    name: str  # an identifier that stays the same over versions
    level: str  # NOTE, SUSPICIOUS or FAILING
    evidence: str  # what the figures say
    mend: str  # what to do about it, with the knob
    weight: int = 50  # of two causes of one level the heavier comes first: 90 is proof, 10 a guess


Check = Callable[[History], Cause | None]


def steps_done(history: History) -> int:
    """Optimizer steps of the whole epochs, as far as the log tells them; otherwise many."""
    whole = whole_epochs(history)
    if not whole:
        return 0
    steps = whole[-1].get("step")
    return FEWEST_STEPS if steps is None else int(steps)


def whole_epochs(history: History) -> list[Epoch]:
    """Those that are over."""
    return [epoch for epoch in history.epochs if epoch.is_whole]


def has_trained(history: History, epochs: int) -> bool:
    """Whether there are so many whole epochs, and steps enough for figures to mean something."""
    return len(whole_epochs(history)) >= epochs and steps_done(history) >= FEWEST_STEPS


def separation(epoch: Epoch) -> float | None:
    """Best score on images with boxes over that on images without; None where either kind is rare."""
    images = epoch.get("images")
    with_boxes = epoch.get("images_with_boxes")
    high = epoch.get("best_score_with_boxes")
    low = epoch.get("best_score_without_boxes")
    if images is None or with_boxes is None or high is None or not low:
        return None
    return high / low if min(with_boxes, images - with_boxes) >= FEWEST_IMAGES else None


def still_finds_boxes(history: History) -> bool:
    """Whether validation finds boxes about as well as ever, up to the last epochs.

    Training figures that look bad are then of another scale (weights, augmentation, settings), not of a failing run.
    """
    return any(_is_kept_up(history, history.evaluated(name)) for name in ("all/agnostic/AP50", "all/per_class/AP50"))


def _is_kept_up(history: History, judged: list[tuple[int, float]]) -> bool:
    if not judged or judged[-1][0] < history.epochs[-1].number - 1:
        return False
    values = [value for _, value in judged]
    means = [mean(values[max(0, i - 1) : i + 1]) for i in range(len(values))]  # of two: one alone is noisy
    return means[-1] >= 0.1 and means[-1] >= 2 / 3 * max(means)


def is_still_early(history: History) -> bool:
    """Whether class scores that are no good yet may still become so: they or the loss get better, after few steps.

    Small data and low learning rates take dozens of epochs to the first `EARLY` steps.
    """
    steps = (whole_epochs(history) or [Epoch(0, {})])[-1].get("step")
    if steps is None or steps >= EARLY:
        return False
    skills, losses = (_means_of_three(history, name) for name in ("class_skill", "loss"))
    gains = bool(skills) and skills[-1] > skills[0] + 0.1 and skills[-1] > max(skills) - 0.1
    return gains or (len(losses) > 1 and losses[-1] < 0.98 * losses[max(0, len(losses) - 4)])


def _means_of_three(history: History, name: str) -> list[float]:
    """Means of an epoch and the two before it."""
    values = [value for _, value in history.series(name)]
    return [mean(values[max(0, i - 2) : i + 1]) for i in range(len(values))]


def denoising_learns(history: History) -> bool | None:
    """Whether the boxes and classes that are handed to the network with noise on them get clearer; None: not told."""
    whole = whole_epochs(history)
    pairs = [(whole[0].get(n), whole[-1].get(n)) for n in ("loss_ce_dn", "loss_giou_dn")] if len(whole) > 1 else []
    known = [(first, last) for first, last in pairs if first and last is not None]
    return len(known) == 2 and known[0][1] < 0.6 * known[0][0] and known[1][1] < 0.98 * known[1][0] if known else None
