"""scripts/show_attention.py and the picture it draws."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.training import call_apart, load_script
from util.distributed.exit_codes import run_to_exit_code
from util.plots.attention import MARGIN, Panel, draw_attention

pytest_plugins = ["tests.helpers.training_fixtures"]

show_attention = load_script("show_attention")


def panel(box, *, weight=0.5):
    """A layer with two points on levels 0 and 7."""
    points, weights = np.array([box[:2], box[2:]]), np.array([weight, 1 - weight])
    return Panel("decoder layer", np.array(box) + 2.0, np.array(box), points, weights, np.array([0, 7]))


@pytest.mark.parametrize(("num_layers", "num_axes"), [(1, 2), (3, 4), (6, 8)])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60, 3)])
def test_there_is_a_panel_for_the_whole_and_one_for_each_layer(num_layers, num_axes, shape):
    box = [10.0, 10.0, 30.0, 20.0]
    figure = draw_attention(np.zeros(shape, dtype=np.uint8), [panel(box)] * num_layers, (8.0, 16.0), "title " * 60)
    shown = [axes for axes in figure.axes if axes.axison]
    assert (len(figure.axes), len(shown)) == (num_axes, num_layers + 1)
    assert "research use, not a medical device" in figure.legends[0].get_title().get_text()
    side = (32 - 10) * (1 + 2 * MARGIN)
    for axes in shown[1:]:
        low, high = axes.get_xlim()
        assert high - low == pytest.approx(side)
        assert low <= 10 <= 32 <= high


def test_the_part_that_is_shown_stays_inside_the_image():
    figure = draw_attention(np.zeros((50, 40), dtype=np.uint8), [panel([30.0, 40.0, 44.0, 60.0])], (8.0,), "title")
    assert figure.axes[1].get_xlim()[1] <= 40
    assert figure.axes[1].get_ylim()[0] <= 50


def test_a_box_around_all_of_an_image_of_one_pixel_lies_on_its_edge():
    figure = draw_attention(np.full((1, 1), 128, dtype=np.uint8), [panel([0.0, 0.0, 1.0, 1.0])], (8.0,), "title")
    whole = figure.axes[0]
    assert (whole.get_xlim(), whole.get_ylim()) == ((0, 1), (1, 0))
    assert tuple(whole.images[0].get_extent()) == (0, 1, 1, 0)  # left, right, bottom, top, like the box


def test_dollars_in_a_name_are_no_formula():
    figure = draw_attention(np.zeros((9, 9), dtype=np.uint8), [panel([1.0, 1.0, 5.0, 5.0])], (8.0,), "on x$_{$.png")
    figure.savefig(io.BytesIO())
    assert figure.get_suptitle() == "on x$_{$.png"


@pytest.mark.parametrize(("num_layers", "num_levels"), [(1, 5), (2, 4), (3, 3), (6, 5)])
def test_the_legend_stays_inside_the_picture(num_layers, num_levels):
    layers = [panel([1.0, 1.0, 5.0, 5.0])] * num_layers
    figure = draw_attention(np.zeros((9, 9), dtype=np.uint8), layers, [12.34] * num_levels, "title")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_a_folder_that_is_a_file_is_told_in_a_line(monkeypatch, capsys, trained, phantom, tmp_path):
    (tmp_path / "file").write_text("x")
    image = sorted(phantom.rglob("*.png"))[0]
    arguments = ["--checkpoint", trained / "best.pth", image, "--output_dir", tmp_path / "file"]
    monkeypatch.setattr("sys.argv", ["show_attention.py", *map(str, arguments)])
    assert run_to_exit_code(show_attention.main) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1


def test_the_picture_of_a_run_is_drawn(monkeypatch, capsys, trained, phantom, tmp_path):
    image = sorted(phantom.rglob("*.png"))[0]
    arguments = ["--checkpoint", trained / "best.pth", image, "--output_dir", tmp_path / "new", "--detection", 2]
    monkeypatch.setattr("sys.argv", ["show_attention.py", *map(str, arguments)])
    assert run_to_exit_code(show_attention.main) == 0
    path = tmp_path / "new" / f"{image.stem}_detection2.png"
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as picture:
        assert picture.width > 1000
        assert picture.text["Comment"] == "research use, not a medical device"
        assert (255, 162, 31) in {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}  # a box


def test_what_cannot_be_drawn_is_told_in_a_line(monkeypatch, capsys, trained, phantom, tmp_path):
    image = sorted(phantom.rglob("*.png"))[0]
    for arguments, phrase in [
        (["--checkpoint", tmp_path / "x.pth", image], "x.pth: no such checkpoint"),
        (["--checkpoint", trained / "best.pth", tmp_path / "x.png"], "x.png: cannot be read as an image"),
        (["--checkpoint", trained / "best.pth", image, "--detection", 21], "--detection 21: the image has 20"),
    ]:
        command = ["show_attention.py", *map(str, arguments), "--output_dir", str(tmp_path / "new")]
        monkeypatch.setattr("sys.argv", command)
        assert run_to_exit_code(show_attention.main) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert phrase in error
        assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_every_option_has_a_sentence():
    told = call_apart("scripts/show_attention.py", "--help")
    assert told.code == 0
    for option in ("--checkpoint", "--output_dir", "--detection", "image"):
        assert option in told.out
