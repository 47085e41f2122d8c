import numpy as np
import pytest
from matplotlib.figure import Figure

from util.plots.style import line_style, scale_horizontal, scale_vertical


def scaled(scale, values):
    axes = Figure().add_subplot()
    scale_vertical(axes, scale, np.array(values, dtype=float))
    return axes


def test_25_lines_differ_in_colour_or_dash():
    looks = [(look["color"], str(look["linestyle"])) for look in map(line_style, range(25))]
    assert len(set(looks)) == 25
    assert len({dash for _, dash in looks[:5]}) == 5  # in a grey print, too


@pytest.mark.parametrize("scale", ["log", "share", "percent", "count", "amount", "skill"])
@pytest.mark.parametrize("values", [[0.0], [0.5], [0.0, 1.0, 0.3], [3.0, 7.0, 40.0]])
def test_what_is_to_be_seen_lies_inside_the_panel(scale, values):
    axes = scaled(scale, values)
    low, high = axes.get_ylim()
    seen = [v for v in values if v > 0] if scale == "log" else values
    if scale != "skill" or max(values) <= 1:  # skill is at most 1
        assert all(low <= v <= high for v in seen)


def test_a_logarithmic_panel_shows_four_decades_at_most():
    low, high = scaled("log", [1e-12, 5.0, 10.0]).get_ylim()
    assert low == pytest.approx(10.0 / 1e4 / 1.6)
    assert high == pytest.approx(16.0)


def test_zero_is_in_sight_of_a_class_skill_however_bad():
    for values in ([-1e4, 0.2], [-1.5], [0.5, 0.9]):
        low, high = scaled("skill", values).get_ylim()
        assert low < min(0.0, *values)
        assert high == pytest.approx(1.05)
    assert scaled("skill", [-1e4, 0.2]).get_yscale() == "symlog"
    assert scaled("skill", [-1.5, 0.2]).get_yscale() == "linear"


def test_counts_far_apart_are_drawn_logarithmically():
    assert scaled("count", [1.0, 1.1, 300.0]).get_yscale() == "symlog"
    assert scaled("count", [1.0, 2.0, 9.0]).get_yscale() == "linear"


def test_the_horizontal_axis_begins_at_the_start_of_training():
    axes = Figure().add_subplot()
    scale_horizontal(axes, 50.0)
    assert axes.get_xlim() == pytest.approx((-1.0, 51.5))
