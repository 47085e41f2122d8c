"""What a config asks for and a training never comes to. That is allowed, as a shorter training is a usual trial.

Every public function with parameters that name knobs is such a rule: it returns a warning, or None.
"""

import inspect
from collections.abc import Mapping
from typing import Any


def drops_come_too_late(lr_schedule: str, lr_drop: tuple[int, ...], epochs: int) -> str | None:
    """Drops of the learning rate at the last epoch or later."""
    late = [e for e in lr_drop if e >= epochs]
    if lr_schedule != "multistep" or not late:
        return None
    return f"lr_drop {late} never happens: training ends after epoch {epochs - 1}"


def evaluation_comes_at_the_end(eval_every: int, epochs: int) -> str | None:
    """An interval of evaluations that is longer than the training."""
    if eval_every <= epochs:
        return None
    return f"eval_every {eval_every} never happens in {epochs} epochs: only the last epoch is evaluated"


def no_checkpoint_is_kept(save_checkpoint_interval: int, epochs: int) -> str | None:
    """An interval of kept checkpoints that is longer than the training."""
    if save_checkpoint_interval <= epochs:
        return None
    return f"save_checkpoint_interval {save_checkpoint_interval} never happens in {epochs} epochs: none is kept"


def mixing_does_not_end(
    data_aug_mosaic: float, data_aug_copy_paste: float, data_aug_mix_end_epoch: int, epochs: int
) -> str | None:
    """Mosaic and copy-paste to the end, although an end is set."""
    if not (data_aug_mosaic or data_aug_copy_paste) or data_aug_mix_end_epoch <= epochs:
        return None
    return (
        f"data_aug_mix_end_epoch {data_aug_mix_end_epoch} never happens in {epochs} epochs: mosaic and copy-paste do "
        "not end"
    )


NEVER_HAPPENS = tuple(rule for rule in list(globals().values()) if inspect.isfunction(rule))


def never_happens(values: Mapping[str, Any]) -> list[str]:
    """A warning for each knob of a flat config that asks for something after the end of the training."""
    found = [rule(**{name: values[name] for name in inspect.signature(rule).parameters}) for rule in NEVER_HAPPENS]
    return [text for text in found if text]
