"""The table of all checks. A new check is a function of a history and a line here."""

from util.doctor.symptoms import crash, data, evaluation, learning, optimisation, recipe
from util.doctor.symptoms.cause import Check

CHECKS: tuple[Check, ...] = (
    crash.crashed,
    optimisation.not_finite,
    optimisation.loss_not_finite,
    optimisation.learning_rate_zero,
    optimisation.learning_rate_too_high,
    optimisation.loss_rises,
    optimisation.boxes_diverge,
    data.no_boxes,
    data.category_never_seen,
    data.train_and_val_boxes_differ,
    data.boxes_change_on_the_way,
    data.labels_do_not_fit_images,
    data.loader_bound,
    learning.class_head_not_learning,
    learning.predicts_everything,
    learning.predicts_nothing,
    learning.worse_than_a_constant,
    learning.categories_not_learned,
    learning.hardly_learns,
    evaluation.validation_falls,
    evaluation.average_too_slow,
    evaluation.training_does_not_carry_over,
    evaluation.validation_near_zero,
    recipe.other_recipe,
)
