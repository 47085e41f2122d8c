"""Every rule between knobs fires on a recipe that breaks it, and on no other."""

import inspect
from dataclasses import fields

import pytest

from util.config import KNOBS, rules
from util.config.rules import RULES
from util.config.schema import SECTIONS

BREAKS = [
    (
        rules.image_head_is_there,
        {"image_head": False, "image_loss_coef": 0.1, "image_gate": 0.0},
        "image_loss_coef 0.1",
    ),
    (rules.image_head_is_there, {"image_head": False, "image_loss_coef": 0.0, "image_gate": 1.0}, "image_gate 1"),
    (rules.image_head_is_there, {"image_head": True, "image_loss_coef": 0.0, "image_gate": 0.0}, "never learn"),
    (rules.flat_part_ends, {"lr_schedule": "flat_cosine", "lr_flat_share": 1.0}, "below 1"),
    (rules.average_of_boxes_follows, {"num_boxes_norm": "ema", "num_boxes_momentum": 1.0}, "never follow"),
    (rules.overlap_counts, {"cls_loss": "ia_bce", "ia_bce_alpha": 1.0}, "its own target"),
    (rules.drops_rise, {"lr_schedule": "multistep", "lr_drop": (40, 30)}, "must be in rising order"),
    (rules.drops_rise, {"lr_schedule": "multistep", "lr_drop": (30, 30)}, "must be in rising order"),
    (rules.heads_divide_width, {"hidden_dim": 48, "nheads": 4}, "multiple of 32"),
    (rules.heads_divide_width, {"hidden_dim": 64, "nheads": 3}, "nheads = 3"),
    (rules.labels_fit_label_table, {"num_classes": 4, "dn_labelbook_size": 2}, "at least num_classes - 1 = 3"),
    (rules.selection_fits, {"num_select": 41, "num_queries": 10, "num_classes": 4}, "= 40"),
    (rules.levels_fit, {"return_interm_indices": (1, 3), "num_feature_levels": 4}, "consecutive"),
    (rules.levels_fit, {"return_interm_indices": (1, 2), "num_feature_levels": 4}, "end with 3"),
    (rules.levels_fit, {"return_interm_indices": (3, 2), "num_feature_levels": 4}, "consecutive"),
    (rules.levels_fit, {"return_interm_indices": (), "num_feature_levels": 4}, "consecutive"),
    (rules.levels_fit, {"return_interm_indices": (1, 2, 3), "num_feature_levels": 2}, "smaller than the 3 stages"),
    (
        rules.crop_range_is_a_range,
        {"data_aug_scales2_crop": (600, 384), "data_aug_scales2_resize": (700,)},
        "smallest, largest",
    ),
    (
        rules.crop_range_is_a_range,
        {"data_aug_scales2_crop": (384,), "data_aug_scales2_resize": (700,)},
        "smallest, largest",
    ),
    (
        rules.crop_range_is_a_range,
        {"data_aug_scales2_crop": (384, 600), "data_aug_scales2_resize": ()},
        "at least one",
    ),
    (
        rules.crop_range_is_a_range,
        {"data_aug_scales2_crop": (384, 600), "data_aug_scales2_resize": (300, 500)},
        "images of 300 px",
    ),
    (
        rules.scales_stay_below_max,
        {"data_aug_scales": (480, 900), "data_eval_scale": 512, "data_aug_max_size": 800},
        "data_aug_scales up to 900 would never happen",
    ),
    (
        rules.scales_stay_below_max,
        {"data_aug_scales": (480,), "data_eval_scale": 1024, "data_aug_max_size": 800},
        "data_eval_scale 1024 would never happen",
    ),
    (
        rules.scales_stay_below_max,
        {"data_aug_scales": (), "data_eval_scale": 512, "data_aug_max_size": 800},
        "at least one",
    ),
    (rules.one_kind_of_sampling, {"positive_fraction": 0.5, "repeat_threshold": 0.1}, "set one of them to 0"),
    (
        rules.mixing_happens,
        {"data_aug_mosaic": 0.5, "data_aug_copy_paste": 0.0, "data_aug_mix_end_epoch": 0, "epochs": 50},
        "would never happen: data_aug_mix_end_epoch is 0; 40 switches them off for the last fifth",
    ),
    (rules.average_follows, {"use_ema": True, "ema_decay": 1.0}, "ema_decay 1 would never follow the weights"),
    (
        rules.operating_target_fits,
        {"operating_rule": "sensitivity", "operating_target": 90.0},
        r"operating_target 90 must lie in (0, 1]",
    ),
]
HOLDS = [
    (rules.drops_rise, {"lr_schedule": "cosine", "lr_drop": (40, 30)}),
    (rules.image_head_is_there, {"image_head": False, "image_loss_coef": 0.0, "image_gate": 0.0}),
    (rules.image_head_is_there, {"image_head": True, "image_loss_coef": 0.1, "image_gate": 0.0}),
    (rules.image_head_is_there, {"image_head": True, "image_loss_coef": 0.1, "image_gate": 1.0}),
    (rules.flat_part_ends, {"lr_schedule": "flat_cosine", "lr_flat_share": 0.9}),
    (rules.flat_part_ends, {"lr_schedule": "cosine", "lr_flat_share": 1.0}),
    (rules.average_of_boxes_follows, {"num_boxes_norm": "ema", "num_boxes_momentum": 0.9}),
    (rules.average_of_boxes_follows, {"num_boxes_norm": "window", "num_boxes_momentum": 1.0}),
    (rules.overlap_counts, {"cls_loss": "ia_bce", "ia_bce_alpha": 0.25}),
    (rules.overlap_counts, {"cls_loss": "mal", "ia_bce_alpha": 1.0}),
    (rules.drops_rise, {"lr_schedule": "multistep", "lr_drop": (11,)}),
    (rules.drops_rise, {"lr_schedule": "multistep", "lr_drop": ()}),
    (rules.drops_rise, {"lr_schedule": "multistep", "lr_drop": (30, 40)}),
    (rules.heads_divide_width, {"hidden_dim": 256, "nheads": 8}),
    (rules.labels_fit_label_table, {"num_classes": 4, "dn_labelbook_size": 3}),
    (rules.selection_fits, {"num_select": 40, "num_queries": 10, "num_classes": 4}),
    (rules.levels_fit, {"return_interm_indices": (0, 1, 2, 3), "num_feature_levels": 4}),
    (rules.levels_fit, {"return_interm_indices": (3,), "num_feature_levels": 1}),
    (rules.crop_range_is_a_range, {"data_aug_scales2_crop": (384, 600), "data_aug_scales2_resize": (384,)}),
    (rules.scales_stay_below_max, {"data_aug_scales": (800,), "data_eval_scale": 800, "data_aug_max_size": 800}),
    (rules.average_follows, {"use_ema": True, "ema_decay": 0.9999}),
    (rules.average_follows, {"use_ema": False, "ema_decay": 1.0}),
    (rules.operating_target_fits, {"operating_rule": "sensitivity", "operating_target": 1.0}),
    (rules.operating_target_fits, {"operating_rule": "false_alarms", "operating_target": 2.0}),
    (rules.one_kind_of_sampling, {"positive_fraction": 0.5, "repeat_threshold": 0.0}),
    (rules.one_kind_of_sampling, {"positive_fraction": 0.0, "repeat_threshold": 0.1}),
    (
        rules.mixing_happens,
        {"data_aug_mosaic": 0.5, "data_aug_copy_paste": 0.5, "data_aug_mix_end_epoch": 12, "epochs": 12},
    ),
    (
        rules.mixing_happens,
        {"data_aug_mosaic": 0.0, "data_aug_copy_paste": 0.0, "data_aug_mix_end_epoch": 0, "epochs": 12},
    ),
]


def test_every_rule_is_tested_both_ways():
    assert {rule for rule, *_ in BREAKS} == {rule for rule, _ in HOLDS} == set(RULES)


@pytest.mark.parametrize(("rule", "values", "message"), BREAKS)
def test_a_rule_fires(rule, values, message):
    assert message in rule(**values)


@pytest.mark.parametrize(("rule", "values"), HOLDS)
def test_a_rule_is_silent(rule, values):
    assert rule(**values) is None


def test_the_parameters_of_rules_are_knobs():
    assert all(inspect.signature(rule).parameters.keys() <= KNOBS.keys() for rule in RULES)


def test_a_knob_has_one_section_and_no_default():
    assert len(KNOBS) == sum(len(fields(section)) for section in SECTIONS.values())
    for section in SECTIONS.values():
        with pytest.raises(TypeError, match="missing"):
            section()
