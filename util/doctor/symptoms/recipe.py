"""Changes of the recipe during a run."""

from itertools import pairwise

from util.config import differences
from util.doctor.symptoms.cause import NOTE, SUSPICIOUS, Cause
from util.runlog.history import History


def other_recipe(history: History) -> Cause | None:
    """A resume changed knobs that affect the training."""
    configs = [start["config"] for start in history.starts]
    changes = [change for before, after in pairwise(configs) for change in differences(before, after)]
    changed = [change for change in changes if change.may_change not in ("freely", "at the same step size")]
    if not changed:
        return None
    evidence = f"resumed with another recipe: {', '.join(dict.fromkeys(map(str, changed)))}"
    level = NOTE if all(change.may_change == "with a note" for change in changed) else SUSPICIOUS
    fix = "resume with the run's own config.py, or start a new run from its weights (--pretrain_model_path)"
    return Cause("other_recipe", level, evidence, fix, 55)
