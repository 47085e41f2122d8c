"""Faults that show in what the network has and has not learned."""

from util.doctor.symptoms.cause import (
    FAILING,
    NOTE,
    SUSPICIOUS,
    Cause,
    has_trained,
    is_still_early,
    keeps_validation_ap,
    last_after,
    whole_epochs,
)
from util.runlog.history import History

PRIOR = 0.01  # score of every query before training


def class_head_not_learning(history: History) -> Cause | None:
    """The class loss has no weight, the class heads are frozen, or boxes improve while scores do not."""
    config = history.config
    if config.get("cls_loss_coef") == 0:
        evidence = "cls_loss_coef is 0: the class loss is not part of what is minimised"
        return Cause("class_head_not_learning", FAILING, evidence, "cls_loss_coef = 1", 95)
    parts = history.start.get("trainable", {})
    heads = {part: n for part, n in parts.items() if part.endswith("class_embed")}
    if frozen := [part for part, (trained, _) in heads.items() if not trained]:
        evidence = f"{' and '.join(frozen)}: no parameter is trained"
        fix = "the class heads must require gradients and be in the optimizer"
        return Cause("class_head_not_learning", FAILING, evidence, fix, 90)
    return _boxes_alone(history)


def _boxes_alone(history: History) -> Cause | None:
    whole = whole_epochs(history)
    if not has_trained(history, 3):
        return None
    skills = [value for _, value in history.series("class_skill")]
    pairs = [(whole[0].get(name), whole[-1].get(name)) for name in ("loss_bbox", "loss_giou")]
    classes = [value for _, value in history.series("loss_ce_dn")]
    boxes_learn = any(first and last is not None and last < 0.85 * first for first, last in pairs)
    classes_learn = len(classes) < 2 or classes[-1] < 0.9 * classes[0]
    if not boxes_learn or classes_learn or not skills or skills[-1] > 0.05:
        return None
    evidence = f"boxes improve and scores do not: class skill is {skills[-1]:+.2f}"
    evidence += f", loss_ce_dn was {classes[0]:.3g} and is {classes[-1]:.3g}"
    fix = "is cls_loss_coef too small, is the class head frozen or outside of the optimizer?"
    return Cause("class_head_not_learning", FAILING, evidence, fix, 60)


def predicts_everything(history: History) -> Cause | None:
    """Nearly every query has a high score."""
    whole = whole_epochs(history)
    queries = history.config.get("num_queries")
    if not whole or not queries:
        return None
    last = whole[-1]
    predicted = last.get("predicted_per_image")
    true = last.get("boxes_per_image")
    skill = last.get("class_skill")
    if predicted is None or true is None or skill is None or predicted < 0.75 * queries or predicted < 3 * true:
        return None
    if skill > -1.0:
        return None
    evidence = (
        f"{predicted:.1f} of {queries} queries have a score of .3 or more in epoch {last.number}, on {true:.2f} "
        f"ground-truth boxes per image; class skill {skill:+.2f}"
    )
    fix = "the first bias of the class heads should give a score of .01; is focal_alpha or cls_loss_coef out of range?"
    return Cause("predicts_everything", FAILING, evidence, fix, 70)


def predicts_nothing(history: History) -> Cause | None:
    """All scores are low, and worse than a constant score."""
    if (last := last_after(history, 2)) is None:
        return None
    best = last.get("best_score_with_boxes")
    skill = last.get("class_skill")
    if best is None or skill is None or skill > 0 or best > (PRIOR if is_still_early(history) else 5 * PRIOR):
        return None
    evidence = f"the best score on images with boxes is {best:.3f} on average, class skill {skill:+.2f}"
    fix = "a larger focal_alpha, more steps, a higher lr; are the class heads trained?"
    return Cause("predicts_nothing", FAILING, evidence, fix, 50)


def worse_than_a_constant(history: History) -> Cause | None:
    """Class scores are worse than one constant score for all queries."""
    whole = whole_epochs(history)
    skills = [epoch.get("class_skill") for epoch in whole[-3:]]
    if not has_trained(history, 4) or any(skill is None or skill > -0.05 for skill in skills):
        return None
    if keeps_validation_ap(history) or is_still_early(history):
        return None
    shown = ", ".join(f"{skill:+.2f}" for skill in skills)
    evidence = f"class skill in the last three epochs is {shown}; 0 is the best constant score"
    fix = "a lower lr, a larger focal_alpha or total batch; see the other causes"
    return Cause("worse_than_a_constant", FAILING, evidence, fix, 30)


def categories_not_learned(history: History) -> Cause | None:
    """Boxes are detected, but their category is no better than the most common one for all."""
    if (last := last_after(history, 3)) is None:
        return None
    counts = last.metrics.get("boxes_by_category")
    error = last.get("class_error")
    matched = last.get("class_error_n")
    if not isinstance(counts, dict) or sum(counts.values()) < 50 or error is None or (matched or 0) < 50:
        return None
    constant_error = 100 * (1 - max(counts.values()) / sum(counts.values()))
    if constant_error == 0 or error < constant_error - 3 or (last.get("recall_top10") or 0) < 0.5:
        return None
    evidence = f"class error of matched boxes is {error:.1f} %, that of the most common category {constant_error:.1f} %"
    fix = "usual early in training; if it stays, the categories may be shuffled or not visible in the images"
    return Cause("categories_not_learned", NOTE, evidence, fix, 20)


def hardly_learns(history: History) -> Cause | None:
    """No fault shows, but the network learns little."""
    if not has_trained(history, 4):
        return None
    skills = [skill for _, skill in history.series("class_skill")]
    recalls = [recall for _, recall in history.series("recall_top10")]
    if is_still_early(history) or not skills or skills[-1] > 0.1 or not recalls or recalls[-1] > 0.3:
        return None
    evidence = (
        f"after {len(whole_epochs(history))} epochs class skill is {skills[-1]:+.2f} and recall@10 {recalls[-1]:.2f}"
    )
    fix = "longer training, a higher lr, pretrained backbone_weights"
    return Cause("hardly_learns", SUSPICIOUS, evidence, fix, 20)
