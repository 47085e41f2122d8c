"""Rules between knobs.

Every function of this file is a rule: its parameters name knobs, and it returns what is wrong with their values, or
None. It runs if each of its knobs is valid by itself, so one bad key does not hide other problems. What comes after the
end of the training is no problem but a warning: never_happens.py.
"""

import inspect


def drops_rise(lr_schedule: str, lr_drop: tuple[int, ...]) -> str | None:
    """Require learning rate drops in rising order."""
    if lr_schedule == "multistep" and list(lr_drop) != sorted(set(lr_drop)):
        return f"lr_drop {list(lr_drop)} must be in rising order"
    return None


def heads_divide_width(hidden_dim: int, nheads: int) -> str | None:
    """Require a width divisible by 32 for group norm and by the number of attention heads."""
    if hidden_dim % 32 or hidden_dim % nheads:
        return f"hidden_dim {hidden_dim} must be a multiple of 32 and of nheads = {nheads}"
    return None


def labels_fit_label_table(num_classes: int, dn_labelbook_size: int) -> str | None:
    """Require a row for every class in the denoising label table, which has dn_labelbook_size + 1 rows."""
    if dn_labelbook_size < num_classes - 1:
        return f"dn_labelbook_size {dn_labelbook_size} must be at least num_classes - 1 = {num_classes - 1}"
    return None


def selection_fits(num_select: int, num_queries: int, num_classes: int) -> str | None:
    """Require num_select not to exceed the number of query-class scores, over which the top-k runs."""
    if num_select > num_queries * num_classes:
        return f"num_select {num_select} exceeds num_queries * num_classes = {num_queries * num_classes}"
    return None


def levels_fit(return_interm_indices: tuple[int, ...], num_feature_levels: int) -> str | None:
    """Require consecutive backbone stages that end with the last one, and a feature level for each."""
    stages = list(return_interm_indices)
    if not stages or stages != list(range(stages[0], 4)):
        return f"return_interm_indices {stages} must be consecutive and end with 3, such as [1, 2, 3]"
    if num_feature_levels < len(stages):
        return (
            f"num_feature_levels {num_feature_levels} is smaller than the {len(stages)} stages of return_interm_indices"
        )
    return None


def crop_range_is_a_range(
    data_aug_scales2_crop: tuple[int, ...], data_aug_scales2_resize: tuple[int, ...]
) -> str | None:
    """Require crops that fit into the resized image they are cut from."""
    if len(data_aug_scales2_crop) != 2 or data_aug_scales2_crop[0] > data_aug_scales2_crop[1]:
        return f"data_aug_scales2_crop {list(data_aug_scales2_crop)} must be (smallest, largest)"
    if not data_aug_scales2_resize:
        return "data_aug_scales2_resize must name at least one size"
    if data_aug_scales2_crop[0] > min(data_aug_scales2_resize):
        return (
            f"data_aug_scales2_crop asks for sides of at least {data_aug_scales2_crop[0]} px, "
            f"but data_aug_scales2_resize makes images of {min(data_aug_scales2_resize)} px"
        )
    return None


def scales_stay_below_max(data_aug_scales: tuple[int, ...], data_eval_scale: int, data_aug_max_size: int) -> str | None:
    """Require scales that do not exceed the longest side allowed."""
    if not data_aug_scales:
        return "data_aug_scales must name at least one size"
    for name, largest in (("data_aug_scales up to", max(data_aug_scales)), ("data_eval_scale", data_eval_scale)):
        if largest > data_aug_max_size:
            return f"{name} {largest} would never happen: data_aug_max_size is {data_aug_max_size}"
    return None


def average_follows(use_ema: bool, ema_decay: float) -> str | None:
    """Require an EMA that changes: it takes a share of 1 - ema_decay of the weights at each step."""
    if use_ema and ema_decay >= 1:
        return f"ema_decay {ema_decay:g} would never follow the weights: it must be below 1, such as 0.9997"
    return None


def operating_target_fits(operating_rule: str, operating_target: float) -> str | None:
    """Require a target sensitivity between 0 and 1."""
    if operating_rule == "sensitivity" and not 0 < operating_target <= 1:
        return f"operating_target {operating_target:g} must lie in (0, 1] when operating_rule is 'sensitivity'"
    return None


def one_kind_of_sampling(positive_fraction: float, repeat_threshold: float) -> str | None:
    """Require at most one way of oversampling."""
    if positive_fraction and repeat_threshold:
        return "positive_fraction and repeat_threshold cannot both be above 0: set one of them to 0"
    return None


def mixing_happens(
    data_aug_mosaic: float, data_aug_copy_paste: float, data_aug_mix_end_epoch: int, epochs: int
) -> str | None:
    """Require an epoch at which mosaic and copy-paste end, so that the last epochs can see unmixed images."""
    if (data_aug_mosaic or data_aug_copy_paste) and not data_aug_mix_end_epoch:
        return (
            "mosaic and copy-paste would never happen: data_aug_mix_end_epoch is 0; "
            f"{max(1, epochs * 4 // 5)} switches them off for the last fifth of the epochs"
        )
    return None


def image_head_is_there(image_head: bool, image_loss_coef: float, image_gate: float) -> str | None:
    """Require an image head for its loss and gate, and a loss for the image head."""
    for name, value in (("image_loss_coef", image_loss_coef), ("image_gate", image_gate)):
        if value and not image_head:
            return f"{name} {value:g} has no meaning without image_head: set image_head=True, or {name}=0"
    if image_head and not image_loss_coef:
        return "image_head would never learn: image_loss_coef is 0; set it above 0, or image_head=False"
    return None


def flat_part_ends(lr_schedule: str, lr_flat_share: float) -> str | None:
    """Require some training after the flat part of the schedule."""
    if lr_schedule == "flat_cosine" and lr_flat_share >= 1:
        return "lr_flat_share 1 leaves no time for the cosine of lr_schedule 'flat_cosine'; it must be below 1"
    return None


def average_of_boxes_follows(num_boxes_norm: str, num_boxes_momentum: float) -> str | None:
    """Require a moving average of boxes that changes: it takes a share of 1 - num_boxes_momentum of each step."""
    if num_boxes_norm == "ema" and num_boxes_momentum >= 1:
        return f"num_boxes_momentum {num_boxes_momentum:g} would never follow: it must be below 1, such as 0.9"
    return None


def overlap_counts(cls_loss: str, ia_bce_alpha: float) -> str | None:
    """Require that the IoU enters the target score: a score that is its own target has no gradient."""
    if cls_loss == "ia_bce" and ia_bce_alpha >= 1:
        return (
            "ia_bce_alpha 1 would make each score of a box its own target, so no score would rise; it must be below 1"
        )
    return None


RULES = tuple(rule for rule in list(globals().values()) if inspect.isfunction(rule))
