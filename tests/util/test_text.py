import numpy as np

from util.text import first_few


def test_a_few_items_are_listed_in_full_and_more_end_in_dots():
    assert first_few([]) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d"]) == "a, b, c, ..."
    assert first_few(("a", "b"), at_most=1) == "a, ..."


def test_an_array_is_listed_as_numbers():
    assert first_few(np.array([7, 8, 9, 10])) == "7, 8, 9, ..."
