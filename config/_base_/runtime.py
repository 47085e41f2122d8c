"""Evaluation and housekeeping."""

num_select = 300
nms_iou_threshold = 0.0
eval_batch_size = 1
eval_every = 1
operating_rule = "youden"
operating_target = 0.9
bootstrap_draws = 1000
image_cache = ""
num_workers = 4
seed = 42
log_every = 10
checkpoint_every_minutes = 15.0
keep_last_checkpoints = 2
skip_nonfinite_steps = 0
on_failing = "warn"
save_checkpoint_interval = 0
