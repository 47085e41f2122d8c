"""How configs differ that this version did not write: what those of older runs lack, and what official ones have."""

from typing import Any

# Knobs that came later, and what runs did before: configs of older runs, and of older checkpoints, lack them.
LATER_KNOBS: dict[str, Any] = {
    "allow_unlabelled_extras": True,
    "exclude_unlabelled_tb": False,
    "positive_fraction": 0.0,
    "repeat_threshold": 0.0,
    "data_aug_rotate": 0.0,
    "data_aug_zoom": 0.0,
    "data_aug_brightness": 0.0,
    "data_aug_contrast": 0.0,
    "data_aug_gamma": 0.0,
    "data_aug_clahe": 0.0,
    "data_aug_clahe_clip": 3.0,
    "data_aug_noise": 0.0,
    "data_aug_erase": 0.0,
    "data_aug_erase_area": 0.05,
    "data_aug_mosaic": 0.0,
    "data_aug_copy_paste": 0.0,
    "data_aug_mix_end_epoch": 0,
    "image_cache": "",
    "on_failing": "warn",
    "tensorboard": False,
    "attn_backend": "torch",
    "fast_layers": False,
    "channels_last": False,
    "compile": "off",
    "activation_checkpointing": False,
    "image_head": False,
    "cls_loss": "focal",
    "varifocal_alpha": 0.75,
    "varifocal_gamma": 2.0,
    "mal_gamma": 1.5,
    "ia_bce_alpha": 0.25,
    "ia_bce_gamma": 2.0,
    "position_supervised_gamma": 2.0,
    "num_boxes_norm": "window",
    "num_boxes_momentum": 0.9,
    "image_loss_coef": 0.0,
    "decay_norms_and_biases": True,
    "lr_schedule": "multistep",
    "lr_final_factor": 0.0,
    "lr_flat_share": 0.5,
    "image_gate": 0.0,
}

# Values of knobs that no longer exist, and what takes their place: configs of older runs, and of older checkpoints, may
# have them.
REPLACED_VALUES: dict[str, dict[Any, Any]] = {"attn_backend": {"compile": "auto"}}

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
