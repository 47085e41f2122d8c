"""Keys of the official config files that are no knobs of this repository, and what to use instead."""

OFFICIAL_KEYS_WITHOUT_MEANING: dict[str, str] = {
    "dn_scalar": "is not read, in the official code either; use dn_number",
    "dn_label_coef": "is not read, in the official code either; denoising terms share cls_loss_coef",
    "dn_bbox_coef": "is not read, in the official code either; see bbox_loss_coef, giou_loss_coef",
    "enc_loss_coef": "is not read, in the official code either; use interm_loss_coef",
    "use_dn": "is not a switch of its own; dn_number = 0 switches denoising off",
    "ema_epoch": "does not exist; ema_warmup_steps lets the average follow quickly at the start",
    "lr_drop_list": "is merged into lr_drop, which takes one or more epochs",
    "multi_step_lr": "is not needed; lr_drop takes one or more epochs",
    "onecyclelr": "is not offered: it would give the backbone the learning rate of the transformer",
    "lr_drop_epochs": "does not exist; use lr_drop",
    "warmup_epochs": "does not exist; use warmup_steps",
    "backbone_dir": "does not exist; give the file in backbone_weights",
    "two_stage_type": "is always 'standard' here",
    "masks": "is not offered: boxes only",
    "hidden_size": "does not exist; use hidden_dim",
    "accum_steps": "does not exist; use gradient_accumulation_steps",
    "coco_path": "is a command-line argument: --data_path DIR",
    "data_path": "is a command-line argument: --data_path DIR",
    "output_dir": "is a command-line argument: --output_dir DIR",
    "resume": "is a command-line argument: --resume FILE",
}
