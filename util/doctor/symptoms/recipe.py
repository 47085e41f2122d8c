"""Whether a run is still the run that was begun."""

from itertools import pairwise

from util.doctor.symptoms.cause import NOTE, SUSPICIOUS, Cause
from util.runlog.history import History

# What may change at a resume without changing the training.
HARMLESS = {
    "batch_size",
    "gradient_accumulation_steps",
    "num_workers",
    "log_every",
    "checkpoint_every_minutes",
    "keep_last_checkpoints",
    "save_checkpoint_interval",
    "skip_nonfinite_steps",
    "on_failing",
    "eval_every",
    "eval_batch_size",
    "image_gate",
    "operating_rule",
    "operating_target",
    "bootstrap_draws",
    "tensorboard",
    "image_cache",
    "backbone_weights",
    "attn_backend",
    "fast_layers",
    "channels_last",
    "compile",
    "activation_checkpointing",
}


def other_recipe(history: History) -> Cause | None:
    """A resume went on with other values than those of the start before it."""
    configs = [start["config"] for start in history.starts]
    changed = [
        f"{key} {before.get(key)!r} -> {after.get(key)!r}"
        for before, after in pairwise(configs)
        for key in after
        if key in before and before[key] != after[key] and key not in HARMLESS
    ]
    if not changed:
        return None
    evidence = f"resumed with another recipe: {', '.join(dict.fromkeys(changed))}"
    level = NOTE if all(text.startswith(("epochs ", "lr_drop")) for text in changed) else SUSPICIOUS
    mend = "go on with the run's own config.py, or start a new run from its weights (--pretrain_model_path)"
    return Cause("other_recipe", level, evidence, mend, 55)


CHECKS = (other_recipe,)
