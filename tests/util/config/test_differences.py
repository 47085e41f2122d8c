"""What differs between two configs, and whether a resume may change it."""

from typing import get_args

import pytest

from util.config import KNOBS, Change, differences
from util.config.schema import LOCAL, MAY_CHANGE, MayChange


def test_a_change_names_the_knob_and_both_values_in_the_order_of_the_second_config():
    found = differences({"lr": 0.1, "seed": 1, "epochs": 5}, {"seed": 2, "epochs": 5, "lr": 0.2})
    assert found == [Change("seed", 1, 2), Change("lr", 0.1, 0.2)]
    assert [str(change) for change in found] == ["seed 1 -> 2", "lr 0.1 -> 0.2"]


def test_a_knob_that_one_config_lacks_is_not_compared():
    assert differences({"lr": 0.1}, {"seed": 1}) == []


def test_the_list_of_a_log_equals_the_tuple_of_a_config():
    assert differences({"lr_drop": [30, 40]}, {"lr_drop": (30, 40)}) == []
    assert differences({"lr_drop": [30]}, {"lr_drop": (30, 40)}) == [Change("lr_drop", [30], (30, 40))]


@pytest.mark.parametrize("key", KNOBS)
def test_no_resume_changes_the_network(key):
    assert MAY_CHANGE[key] in get_args(MayChange)
    assert (MAY_CHANGE[key] == "never") == (KNOBS[key][0] == "model" and key != "backbone_weights")


def test_what_a_machine_needs_may_change_freely():
    assert {MAY_CHANGE[key] for key in LOCAL} == {"freely"}


def test_a_knob_of_another_version_may_change_with_a_warning():
    assert Change("a_knob_of_another_version", 1, 2).may_change == "with a warning"
