"""Keys of the official configs that this repository does not have."""

# Keys of the official config files that mean nothing here, and what to do instead.
OFFICIAL_KEYS_WITHOUT_MEANING: dict[str, str] = {
    "dn_scalar": "is read by nothing, in the official code too; use dn_number",
    "dn_label_coef": "is read by nothing, in the official code too; denoising terms share cls_loss_coef",
    "dn_bbox_coef": "is read by nothing, in the official code too; see bbox_loss_coef, giou_loss_coef",
    "enc_loss_coef": "is read by nothing, in the official code too; use interm_loss_coef",
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
    "coco_path": "is said on the command line: --data_path DIR",
    "data_path": "is said on the command line: --data_path DIR",
    "output_dir": "is said on the command line: --output_dir DIR",
    "resume": "is said on the command line: --resume FILE",
}
