"""Evaluation."""

num_select = 300
nms_iou_threshold = 0.0
image_gate = 0.0
eval_batch_size = 1
eval_every = 1
operating_rule = "youden"
operating_target = 0.9
bootstrap_draws = 1000
