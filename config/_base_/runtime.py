"""Seed, logging and checkpoints."""

seed = 42
log_every = 10
checkpoint_every_minutes = 15.0
keep_last_checkpoints = 2
skip_nonfinite_steps = 0
on_failing = "warn"
tensorboard = False
save_checkpoint_interval = 0
