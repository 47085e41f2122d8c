"""The doctor on made-up logs of the official code: log.txt with a JSON object per epoch."""

import json
import math

import pytest

from util.doctor import CANNOT_TELL, FAILING, HEALTHY, SUSPICIOUS, diagnose, read_official_log


def row(epoch, ap50, loss=2.0, **changes):
    figures = {"epoch": epoch, "train_lr": 1e-4, "train_loss": loss, "train_loss_giou": 0.02 * loss}
    return {**figures, "test_coco_eval_bbox": [ap50 / 2, ap50, ap50 / 4, *[-1.0] * 9], **changes}


@pytest.fixture
def diagnosis(tmp_path):
    def of(rows, **stated):
        (tmp_path / "log.txt").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return diagnose(read_official_log(tmp_path / "log.txt", stated))

    return of


def names(found):
    return [cause.name for cause in found.causes]


def healthy(epochs=24, first=0):
    """AP50 up to .3, loss from 3 to 1.5."""
    return [row(n, 0.3 * (1 - 0.8**n), 1.5 + 1.5 * 0.8**n) for n in range(first, epochs)]


@pytest.mark.parametrize(("at", "verdict"), [(23, FAILING), (10, SUSPICIOUS)])
def test_a_loss_that_is_not_finite_is_named_with_its_epoch(diagnosis, at, verdict):
    rows = healthy()
    rows[at]["train_loss"] = math.nan
    found = diagnosis(rows)
    assert (found.verdict, found.epoch, names(found)[0]) == (verdict, at, "not_finite")
    assert f"epoch {at}" in found.causes[0].evidence


@pytest.mark.parametrize("factor", [1.3, 2.5])
def test_a_loss_on_another_scale_is_no_failure_while_validation_finds_as_much_as_ever(diagnosis, factor):
    rows = healthy()
    for r in rows[14:]:
        r["train_loss"] *= factor
        r["train_loss_giou"] *= factor
    found = diagnosis(rows)
    assert found.verdict == SUSPICIOUS
    assert "loss_rises" in names(found)
    for r in rows[14:]:
        r["test_coco_eval_bbox"][:2] = [0.02, 0.05]
    assert diagnosis(rows).verdict == FAILING


@pytest.mark.parametrize("last", [0.0, 1e-10, 3e-7])
def test_a_rate_that_comes_down_to_nothing_at_the_end_is_no_failure(diagnosis, last):
    rows = healthy(50)
    for r in rows:
        r["train_lr"] = last + 1e-4 * (1 + math.cos(math.pi * r["epoch"] / 49)) / 2
    for first in (0, 30, 47, 48):
        assert diagnosis(rows[first:]).verdict == HEALTHY


def test_a_rate_that_is_nothing_for_long_is_a_failure(diagnosis):
    rows = healthy()
    for r in rows[12:]:
        r["train_lr"] = 0.0
    found = diagnosis(rows)
    assert (found.verdict, names(found)[0]) == (FAILING, "learning_rate_zero")


def test_a_log_that_begins_after_the_collapse_is_failing_by_its_evaluations(diagnosis):
    rows = [row(n, 0.005) for n in range(16, 22)]
    verdicts = [diagnosis(rows[:n]).verdict for n in (1, 2, 3, 6)]
    assert verdicts == [CANNOT_TELL, SUSPICIOUS, FAILING, FAILING]
    assert diagnosis([row(n, 0.005) for n in range(6)]).verdict == SUSPICIOUS  # young


def test_an_average_that_lags_behind_is_named_and_is_no_failure(diagnosis):
    rows = [{**r, "ema_test_coco_eval_bbox": [0.001, 0.004, 0.0, *[-1.0] * 9]} for r in healthy(16)]
    found = diagnosis(rows)
    assert found.verdict == SUSPICIOUS
    assert names(found) == ["average_too_slow"]
