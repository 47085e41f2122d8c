"""Whether a run is still the run that was begun."""

from itertools import pairwise

from util.config import differences
from util.doctor.symptoms.cause import NOTE, SUSPICIOUS, Cause
from util.runlog.history import History


def other_recipe(history: History) -> Cause | None:
    """A resume went on with other values than those of the start before it."""
    configs = [start["config"] for start in history.starts]
    changes = [change for before, after in pairwise(configs) for change in differences(before, after)]
    blamed = [change for change in changes if change.may_change not in ("freely", "at the same step size")]
    if not blamed:
        return None
    evidence = f"resumed with another recipe: {', '.join(dict.fromkeys(map(str, blamed)))}"
    level = NOTE if all(change.may_change == "with a note" for change in blamed) else SUSPICIOUS
    mend = "go on with the run's own config.py, or start a new run from its weights (--pretrain_model_path)"
    return Cause("other_recipe", level, evidence, mend, 55)


CHECKS = (other_recipe,)
