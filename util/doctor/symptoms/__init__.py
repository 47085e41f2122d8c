"""What the doctor looks for: each check is a pure function of a history and finds one cause, or None."""

from util.doctor.symptoms import data, evaluation, learning, optimisation, recipe
from util.doctor.symptoms.cause import FAILING, NOTE, SUSPICIOUS, Cause, Check

CHECKS: tuple[Check, ...] = (*optimisation.CHECKS, *data.CHECKS, *learning.CHECKS, *evaluation.CHECKS, *recipe.CHECKS)

__all__ = ["CHECKS", "FAILING", "NOTE", "SUSPICIOUS", "Cause", "Check"]
