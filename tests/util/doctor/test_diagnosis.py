"""The doctor on made-up histories: a healthy run, and the same with one thing wrong."""

import json
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.checks.expected_results import EXPECTED_RESULTS
from util.doctor import CANNOT_TELL, FAILING, HEALTHY, SUSPICIOUS, diagnose
from util.runlog.history import history_of

STEPS = 90
FACTS = {
    "images": 720,
    "images_with_boxes": 65,
    "boxes": 100,
    "boxes_by_category": {"1": 80, "2": 20},
    "median_box_width": 0.2,
    "median_box_height": 0.25,
}
CONFIG = {
    "num_queries": 30,
    "cls_loss_coef": 1.0,
    "use_ema": True,
    "ema_decay": 0.9,
    "ema_warmup_steps": 0,
    "epochs": 8,
    "lr": 1e-4,
    "dataset_file": "tbx11k",
}
HEADS = {"backbone": [10, 20], "class_embed": [4, 4], "enc_out_class_embed": [4, 4]}
START = {
    "kind": "start",
    "epoch": 0,
    "step": 0,
    "config": CONFIG,
    "train": FACTS,
    "val": FACTS,
    "trainable": HEADS,
    "category_names": {"1": "Active", "2": "Obsolete"},
}


def healthy_epoch(n):
    """Figures that get better from epoch to epoch."""
    left = 0.7**n
    return {
        "loss": 10 + 20 * left,
        "loss_ce": 0.1 + 0.5 * left,
        "loss_ce_dn": 0.02 + 0.3 * left,
        "loss_bbox": 0.1 + 0.2 * left,
        "loss_giou": 0.2 + 0.5 * left,
        "loss_giou_dn": 0.3 + 0.4 * left,
        "loss_with_boxes": 20.0 + 20 * left,
        "loss_without_boxes": 0.3 * left,
        "class_skill": 0.8 - left,
        "class_error": 10 + 15 * left,
        "class_error_n": 100,
        "recall_top10": 0.9 - 0.8 * left,
        "best_score_with_boxes": 0.6 - 0.4 * left,
        "best_score_without_boxes": 0.1 + 0.1 * left,
        "predicted_per_image": 0.2,
        "boxes_per_image": 0.14,
        "grad_norm": 12.0,
        "clipped_share": 1.0,
        "images": 720,
        "images_with_boxes": 65,
        "boxes": 100,
        "boxes_by_category": {"1": 80, "2": 20},
        "mean_box_width": 0.22,
        "mean_box_height": 0.27,
        "skipped": 0,
    }


def healthy_evaluation(n):
    left = 0.7**n
    return {"all/per_class/AP": 0.2 - 0.2 * left, "all/agnostic/AP50": 0.5 - 0.48 * left, "all/image/auc": 0.95}


def rows_of(*, epochs=8, start=None, figures=lambda _: {}, evaluation=lambda _: {}, lr=1e-4):
    """The rows of a healthy run, with changes by epoch."""
    rows = [{**deepcopy(START), **(start or {})}]
    for n in range(epochs):
        step = {"epoch": n, "step": STEPS * (n + 1)}
        values = {**healthy_epoch(n), **figures(n)}
        rows.append({"kind": "train", **step, **values, "lr": lr, "time": 1.0, "data": 0.01})
        rows.append({"kind": "epoch", **step, **values})
        rows.append({"kind": "eval", **step, **healthy_evaluation(n), **evaluation(n)})
    return rows


def diagnosis(**changes):
    return diagnose(history_of(rows_of(**changes)), EXPECTED_RESULTS)


def names(found):
    return [cause.name for cause in found.causes]


def test_a_healthy_run_is_healthy_and_never_called_failing_on_its_way():
    history = history_of(rows_of())
    verdicts = [diagnose(history.until(n)).verdict for n in range(8)]
    assert verdicts[-1] == HEALTHY
    assert not {FAILING, SUSPICIOUS} & set(verdicts)


@pytest.mark.parametrize("scores", [(0.045, 0.044), (0.07, 0.066)])
def test_a_small_run_that_begins_slowly_is_not_called_failing(scores):
    """Figures of a tiny network on 60 images, 60 steps to the epoch, that learned them in the end."""
    skills = [-1.98, -1.51, -1.15, -1.06, -1.10, -1.10, -1.05, -1.03, -1.07, -1.02, -0.84, -0.89, -0.79]
    losses = [14.3, 13.5, 12.4, 11.8, 11.5, 11.3, 10.7, 10.4, 9.9, 9.6, 9.5, 9.4, 9.2]
    figures = {"best_score_with_boxes": scores[0], "best_score_without_boxes": scores[1], "images_with_boxes": 18}
    history = history_of(
        rows_of(
            epochs=13,
            figures=lambda n: {**figures, "class_skill": skills[n], "loss": losses[n], "recall_top10": 0.02 * n},
            evaluation=lambda n: {"all/per_class/AP": 0.001 * n, "all/agnostic/AP50": 0.002 * n},
        )
    )
    assert {diagnose(history.until(n)).verdict for n in range(13)} == {CANNOT_TELL}


def test_few_boxes_and_a_slow_average_are_no_proof_that_training_does_not_carry_over():
    changes = {"figures": lambda _: {"boxes": 25}, "evaluation": lambda _: POOR}
    assert "training_does_not_carry_over" not in names(diagnosis(**changes))
    slow = diagnosis(start={"config": {**CONFIG, "ema_decay": 0.9999}}, evaluation=lambda _: POOR)
    assert names(slow)[0] == "average_too_slow"


def test_before_anything_is_known_the_doctor_cannot_tell():
    for rows in ([], rows_of(epochs=0), rows_of(epochs=1, evaluation=lambda _: {"all/agnostic/AP50": 0.01})):
        assert diagnose(history_of(rows)).verdict == CANNOT_TELL


def falling(n):
    """Figures of an evaluation that get worse from epoch to epoch."""
    return {"all/agnostic/AP50": 0.5 / (1 + n), "all/per_class/AP": 0.2 / (1 + n)}


ALIKE = {"best_score_with_boxes": 0.4, "best_score_without_boxes": 0.4}
POOR = {"all/agnostic/AP50": 0.01, "all/per_class/AP": 0.001, "all/image/auc": 0.5}
STUCK = {"class_skill": -0.6, "loss_ce_dn": 0.7, "loss_giou_dn": 0.7, **ALIKE}
NO_HEAD = {**HEADS, "class_embed": [0, 4]}
FAILURES = {
    "predicts nothing": (
        "predicts_nothing",
        {"figures": lambda _: {"class_skill": -0.3, "best_score_with_boxes": 0.008, "recall_top10": 0.02}},
    ),
    "predicts everything": (
        "predicts_everything",
        {"figures": lambda _: {"class_skill": -9.0, "predicted_per_image": 29.0}},
    ),
    "no class loss": ("class_head_not_learning", {"start": {"config": {**CONFIG, "cls_loss_coef": 0.0}}}),
    "frozen heads": ("class_head_not_learning", {"start": {"trainable": NO_HEAD}}),
    "scores that stand still while boxes improve": (
        "class_head_not_learning",
        {"start": {"trainable": {}}, "figures": lambda _: {"class_skill": -0.1, "loss_ce_dn": 3.0}},
    ),
    "diverging boxes": (
        "boxes_diverge",
        {"figures": lambda n: {"loss_giou": 0.3 + 0.4 * max(0, n - 3)}, "evaluation": falling},
    ),
    "no learning rate": ("learning_rate_zero", {"lr": 0.0}),
    "hardly a learning rate": ("learning_rate_zero", {"lr": 1e-8, "figures": lambda _: {"loss": 30.0}}),
    "too high a learning rate": ("learning_rate_too_high", {"lr": 0.01, "figures": lambda _: STUCK}),
    "too high a learning rate, without clipping": (
        "learning_rate_too_high",
        {
            "lr": 0.01,
            "start": {"config": {**CONFIG, "clip_max_norm": 0.0}},
            "figures": lambda _: {**STUCK, "clipped_share": 0.0},
        },
    ),
    "a loss that rises": ("loss_rises", {"figures": lambda n: {"loss": 10.0 + abs(n - 2)}, "evaluation": falling}),
    "a loss that is no number": ("not_finite", {"figures": lambda n: {"loss": float("nan")} if n == 7 else {}}),
    "no boxes": ("no_boxes", {"figures": lambda _: {"boxes": 0, "images_with_boxes": 0}}),
    "boxes of other images": ("labels_do_not_fit_images", {"figures": lambda _: ALIKE, "evaluation": lambda _: POOR}),
    "boxes of another scale": (
        "train_and_val_boxes_differ",
        {"start": {"train": {**FACTS, "median_box_width": 0.4}}, "evaluation": lambda _: POOR},
    ),
    "nothing carries over": ("training_does_not_carry_over", {"evaluation": lambda _: POOR}),
    "worse than a constant": (
        "worse_than_a_constant",
        {"figures": lambda _: {"class_skill": -0.2, "loss": 20.0}, "evaluation": lambda _: POOR},
    ),
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failure_is_named_in_the_first_two_causes(fault):
    name, changes = FAILURES[fault]
    found = diagnosis(**changes)
    assert found.verdict == FAILING
    assert name in names(found)[:2]
    assert all(cause.evidence and cause.fix for cause in found.causes)


DOUBTS = {
    "a category that training never sees": (
        "category_never_seen",
        {"start": {"train": {**FACTS, "boxes_by_category": {"1": 100, "2": 0}}}},
    ),
    "labels shifted by one": (
        "category_never_seen",
        {"start": {"train": {**FACTS, "boxes_by_category": {"2": 80, "3": 20}}}},
    ),
    "overfitting": (
        "validation_falls",
        {"evaluation": lambda n: {"all/per_class/AP": 0.2 - 0.05 * abs(n - 4)}},
    ),
    "an average that is too slow": (
        "average_too_slow",
        {"start": {"config": {**CONFIG, "ema_decay": 0.9999}}, "evaluation": lambda _: {"all/agnostic/AP50": 0.06}},
    ),
    "boxes blown up on the way": ("boxes_change_on_the_way", {"figures": lambda _: {"mean_box_width": 0.5}}),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_what_may_be_wrong_is_suspicious(doubt):
    name, changes = DOUBTS[doubt]
    found = diagnosis(**changes)
    assert found.verdict in (SUSPICIOUS, FAILING)
    assert name in names(found)[:2]


def test_a_resume_with_another_recipe_is_suspicious_and_with_other_workers_is_not():
    rows = rows_of()
    again = {**deepcopy(START), "epoch": 4}
    for change, verdict in (({"lr": 5e-4}, SUSPICIOUS), ({"num_workers": 7}, HEALTHY), ({"epochs": 9}, HEALTHY)):
        resumed = [*rows, {**again, "config": {**CONFIG, "num_workers": 4, **change}}]
        found = diagnose(history_of([{**rows[0], "config": {**CONFIG, "num_workers": 4}}, *resumed[1:]]))
        assert found.verdict == verdict
        assert ("other_recipe" in names(found)) == ("num_workers" not in change)


def test_waiting_for_images_is_a_note():
    rows = [{**row, "data": 0.6} if row["kind"] == "train" else row for row in rows_of()]
    found = diagnose(history_of(rows))
    assert (found.verdict, "loader_bound" in names(found)) == (HEALTHY, True)


def test_a_step_that_was_skipped_is_suspicious_and_one_that_ended_the_run_is_failing():
    row = {"kind": "nonfinite", "epoch": 7, "step": 100, "terms": "loss nan on tb/a.png"}
    for step, verdict in ((100, SUSPICIOUS), (8 * STEPS, FAILING)):
        found = diagnose(history_of([*rows_of(), {**row, "step": step}]))
        assert (found.verdict, names(found)[0]) == (verdict, "not_finite")
        assert "tb/a.png" in found.causes[0].evidence


def test_the_epoch_is_the_first_since_which_the_verdict_holds():
    found = diagnosis(figures=lambda n: {"boxes": 0, "images_with_boxes": 0} if n >= 5 else {})
    assert (found.verdict, found.epoch) == (FAILING, 5)


def test_an_epoch_of_mere_suspicion_does_not_make_a_failing_run_a_new_one():
    rising = [10, 10, 10, 12, 13, 13, 11, 8.7, 14, 15]
    changes = {"figures": lambda n: {"loss": float(rising[n])}, "evaluation": falling}
    found = diagnosis(epochs=10, **changes)
    verdicts = [diagnosis(epochs=n, **changes).verdict for n in range(5, 11)]
    assert verdicts == [FAILING, FAILING, FAILING, SUSPICIOUS, FAILING, FAILING]
    assert found.epoch == 4


def test_a_failure_that_is_over_is_remembered():
    found = diagnosis(figures=lambda n: {"class_skill": -9.0, "predicted_per_image": 29.0} if n == 0 else {})
    assert found.verdict == HEALTHY
    assert found.epoch == 1
    assert names(found)[0] == "predicts_everything"
    assert "over now; in epoch 0" in found.causes[0].evidence


def test_what_is_known_later_does_not_change_an_earlier_verdict():
    whole = history_of(rows_of(figures=lambda n: {"loss": 10.0 + abs(n - 2)}))
    for n in range(8):
        part = history_of(rows_of(epochs=n + 1, figures=lambda n: {"loss": 10.0 + abs(n - 2)}))
        assert diagnose(whole.until(n)) == diagnose(part)


def test_the_plan_is_for_the_tbx11k_recipes_alone_and_hides_nothing():
    assert diagnosis().expectations == ()
    start = {"train": {**FACTS, "images": 6600}}
    found = diagnosis(start=start, epochs=12)
    assert [text.split(":")[1].split()[0] for text in found.expectations] == ["yes", "yes", "yes", "not"]
    assert "0.19" in found.expectations[2]  # measured, above what is expected
    poor = diagnosis(start=start, epochs=12, evaluation=lambda _: {"all/per_class/AP": 0.02})
    assert "below_expectation" in names(poor)
    assert "0.020" in poor.expectations[2]


def test_a_class_error_that_does_not_fall_at_once_is_told_and_no_ground_for_suspicion():
    """Of 900 boxes it has a standard error of more than one percent, and it begins where it ends after pretraining."""
    found = diagnosis(start={"train": {**FACTS, "images": 6600}}, figures=lambda n: {"class_error": 20.0 + 0.1 * n})
    assert (found.verdict, "below_expectation" in names(found)) == (HEALTHY, True)
    assert "no (20.0 % and 20.1 %)" in found.expectations[1]


def test_the_answer_is_json_and_text():
    found = diagnosis(figures=lambda _: {"boxes": 0, "images_with_boxes": 0})
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert {"verdict", "epoch", "causes", "evidence", "artefacts"} <= told.keys()
    assert told["causes"][0]["name"] == "no_boxes"
    assert "verdict: failing (since epoch 0)" in found.as_text()
    assert "fix: check train_list" in found.as_text()


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 500),
    st.floats(allow_nan=True),
    st.text(max_size=3),
    st.just({}),
    st.just([]),
)
COLUMNS = [*healthy_epoch(0), "lr", "time", "data", "epoch", "step", "config", "train", "val", "trainable", "terms"]
ROWS = st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=12)
KINDS = st.sampled_from(["start", "train", "epoch", "eval", "nonfinite", "unknown"])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(KINDS, ROWS), max_size=12), st.integers(0, 3))
def test_no_log_makes_the_doctor_stumble(strange, healthy):
    rows = [*rows_of(epochs=healthy), *({"kind": kind, **row} for kind, row in strange)]
    found = diagnose(history_of(rows))
    assert found.verdict in (HEALTHY, SUSPICIOUS, FAILING, CANNOT_TELL)
    json.dumps(found.as_json(), allow_nan=False)
    assert found.as_text()
