"""Faults of the images and boxes that training gets."""

from util.base.text import printable
from util.doctor.symptoms.cause import (
    FAILING,
    NOTE,
    SUSPICIOUS,
    Cause,
    denoising_learns,
    has_trained,
    last_after,
    separation,
    whole_epochs,
)
from util.runlog.history import History

MIN_IMAGES_WITHOUT_BOXES = 200  # no accident where 5 % or more of the images have a box
MIN_BOXES = 20
SIZE_RATIO = 1.4


def no_boxes(history: History) -> Cause | None:
    """The last epoch had no image with a box."""
    last = history.last
    if last is None or last.get("images_with_boxes") or last.get("boxes") is None:
        return None
    images = last.get("images") or 0
    if (not last.is_whole and images < MIN_IMAGES_WITHOUT_BOXES) or not images:
        return None
    evidence = f"none of the {images:.0f} images of epoch {last.number} has a box; there is nothing to learn"
    fix = "check train_list and the annotation file it names: are the annotations those of these images?"
    return Cause("no_boxes", FAILING, evidence, fix, 90)


def category_never_seen(history: History) -> Cause | None:
    """A category of the validation boxes is missing in training, or has another id there."""
    train, val = (history.start.get(k, {}).get("boxes_by_category", {}) for k in ("train", "val"))
    names = history.start.get("category_names", {})
    if missing := [printable(f"{c} ({names.get(c, '?')})") for c, n in val.items() if n and not train.get(c)]:
        evidence = f"categories {', '.join(missing)} have boxes in validation and none in training"
        fix = "are the category ids of both annotation files the same? Labels shifted by one show this, too"
        is_certain = sum(train.values()) >= MIN_BOXES
        return Cause("category_never_seen", SUSPICIOUS if is_certain else NOTE, evidence, fix, 60)
    if absent := [printable(f"{c} ({names.get(c, '?')})") for c, n in train.items() if not n and not val.get(c)]:
        evidence = f"categories {', '.join(absent)} have no box at all; no metric is computed for them"
        return Cause("category_without_boxes", NOTE, evidence, "no action needed where that is known", 10)
    return None


def train_and_val_boxes_differ(history: History) -> Cause | None:
    """The boxes of both lists differ in size: another scale or another coordinate frame."""
    train, val = (history.start.get(k, {}) for k in ("train", "val"))
    if min(train.get("boxes", 0), val.get("boxes", 0)) < MIN_BOXES:
        return None
    ratios = [train[k] / val[k] for k in ("median_box_width", "median_box_height") if train.get(k) and val.get(k)]
    if not ratios or all(1 / SIZE_RATIO < r < SIZE_RATIO for r in ratios):
        return None
    evidence = "the median training box is {:.2f} times as wide and {:.2f} times as high as the median validation box"
    evidence = evidence.format(*(ratios * 2)[:2])
    last = history.last
    ap50, recall = (last.evaluated("all/agnostic/AP50"), last.get("recall_top10")) if last else (None, None)
    has_effect = ap50 is not None and recall is not None and ap50 < 0.1 and recall > 0.5 and has_trained(history, 2)
    if has_effect:
        evidence += f"; recall is {recall:.2f} in training, and AP50 {ap50:.3f} in validation"
    fix = "compare both annotation files: pixels of the original or of the resized image, xywh or xyxy?"
    return Cause("train_and_val_boxes_differ", FAILING if has_effect else SUSPICIOUS, evidence, fix, 80)


def boxes_change_on_the_way(history: History) -> Cause | None:
    """Boxes in training differ in size from those in the file: an augmentation that enlarges or ignores them."""
    last = history.last
    facts = history.start.get("train", {})
    if last is None or (last.get("boxes") or 0) < MIN_BOXES:
        return None
    pairs = [(last.get(f"mean_box_{side}"), facts.get(f"median_box_{side}")) for side in ("width", "height")]
    ratios = [used / stored for used, stored in pairs if used and stored]
    if not ratios or all(0.5 < r < 2.0 for r in ratios):
        return None
    evidence = "boxes in training are on average {:.2f} times as wide and {:.2f} times as high as in the file"
    evidence = evidence.format(*(ratios * 2)[:2])
    fix = "check the data_aug_ knobs: crops that enlarge that much, or a defect of an augmentation"
    return Cause("boxes_change_on_the_way", SUSPICIOUS, evidence, fix, 60)


def labels_do_not_fit_images(history: History) -> Cause | None:
    """Denoising queries learn, since they get the boxes, but scores do not separate images with boxes from others."""
    if (last := last_after(history, 3)) is None or not denoising_learns(history):
        return None
    ratios = [separation(epoch) for epoch in whole_epochs(history)[-2:]]
    if any(ratio is None or not 0.9 < ratio < 1.06 for ratio in ratios):
        return None
    evidence = (
        f"the best score is {last.get('best_score_with_boxes'):.2f} on images with boxes and "
        f"{last.get('best_score_without_boxes'):.2f} on images without, in two epochs, while the denoising queries, "
        "which get the boxes, do learn"
    )
    auc = last.evaluated("all/image/auc")
    ap50 = last.evaluated("all/agnostic/AP50")
    if auc is not None:
        evidence += f"; image-level AUC on validation images is {auc:.2f}"
    has_effect = (auc is not None and auc < 0.6) or (ap50 is not None and ap50 < 0.05)
    fix = "do the annotations belong to these images? Draw the ground truth of some of them (show_detections.py)"
    return Cause("labels_do_not_fit_images", FAILING if has_effect else SUSPICIOUS, evidence, fix, 60)


def loader_bound(history: History) -> Cause | None:
    """Training waits for images."""
    last = history.last
    share = last.get("data_share") if last else None
    if last is None or share is None or share < 0.3 or not has_trained(history, 1):
        return None
    evidence = f"{share:.0%} of the time of epoch {last.number} was spent waiting for images"
    return Cause("loader_bound", NOTE, evidence, "more num_workers (and cores for them), or data on a local disk", 20)
