"""Names of files, categories and runs come with data: whatever they are, every plot is drawn and shows them."""

import ast
import xml.etree.ElementTree
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from util.base.text import MAX_LABEL, label, short_names
from util.metrics.report.protocols import MatchedTables
from util.metrics.tables import Detections, GroundTruth
from util.plots.attention import LayerPanel, draw_attention
from util.plots.contact_sheet import annotate_detections, draw_sheet
from util.plots.curves import RunCurves
from util.plots.dashboard import draw_dashboard
from util.plots.evaluation import draw_calibration, draw_confusion, draw_precision_recall
from util.predict.picture import draw_picture

ROOT = Path(__file__).parents[3]
NAMES = {
    "formula": "$\\frac{x$",
    "half a formula": "$x_{$.png",
    "whole formula": "$x_1$",
    "carriage return": "a\rb",
    "lines": "a\n\n\nb",
    "nothing": "\0",
    "escape": "\x1b[31mred\x1b[0m",
    "turned round": "\u202egnp.exe",
    "no letter": "\udcff\ud800",
    "markup": "--><script>alert(1)</script>]]>&",
    "underscore": "_hidden",
    "blank": " ",
    "long": "W" * 3000,
    "another alphabet": "\u7d50\u6838",
}
BOX = (10.0, 10.0, 40.0, 40.0)
every_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing from font")


def tables(name):
    """An image with a box that is found, both called `name`."""
    truth = GroundTruth(
        images=(1, 2),
        image_id=np.array([1, 2]),
        label=np.array([1, 2]),
        xyxy=np.array([BOX, BOX]),
        area=np.full(2, 900.0),
        is_crowd=np.zeros(2, dtype=bool),
        names={1: name, 2: "other"},
        sizes={1: (64, 64), 2: (64, 64)},
        files={1: name, 2: "2.png"},
    )
    found = Detections((1, 2), np.array([1, 2]), np.array([1, 2]), np.array([BOX, BOX]), np.array([0.9, 0.8]))
    return truth, found


def drawn(figure, kind="png"):
    """The file, and every text of the figure."""
    content = BytesIO()
    figure.savefig(content, format=kind, dpi=30)
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return content.getvalue(), texts


@every_name
def test_a_sheet_of_images_is_drawn_and_shows_the_name_on_one_line(name):
    truth, found = tables(name)
    figure = draw_sheet([annotate_detections(np.zeros((64, 64), np.uint8), truth, found, 1, 0.5)], f"{name} on {name}")
    _, texts = drawn(figure)
    assert f"{label(name)}1 GT, 1 prediction, 1 TP" in [text.replace("\n", "") for text in texts]
    assert f"{short_names({1: name})[1]} 0.90" in texts
    assert not any(letter in text for text in texts for letter in "\r\0\x1b\u202e")


@pytest.mark.parametrize("name", [NAMES[key] for key in ("formula", "escape", "no letter", "markup", "underscore")])
@pytest.mark.parametrize("draw", [draw_precision_recall, draw_confusion])
def test_the_plots_of_an_evaluation_are_whole_files_whatever_a_category_is_called(draw, name):
    truth, found = tables(name)
    content, texts = drawn(draw(MatchedTables(truth, found, {}, 0.5)), "svg")
    xml.etree.ElementTree.fromstring(content)
    assert any(label(name) in text for text in texts)


def test_each_category_has_its_line_in_the_legend_even_one_that_is_called_as_all_of_them():
    for name in ("class-agnostic", "_hidden"):
        truth, found = tables(name)
        legend = draw_precision_recall(MatchedTables(truth, found, {}, 0.5)).axes[0].get_legend()
        assert len(legend.get_texts()) == 3


def test_a_logarithmic_axis_has_plain_numbers():
    truth, found = tables("a")
    _, texts = drawn(draw_calibration(MatchedTables(truth, found, {}, 0.5)))
    assert "1" in texts
    assert not any("$" in text for text in texts)


def curves(name):
    rows = [{"kind": "train", "epoch": 0, "step": step, "loss": 1.0} for step in range(3)]
    rows += [{"kind": "eval", "epoch": 1, "step": 3, "weights": name, "all/per_class/AP": 0.5}]
    rows[-1] |= {f"all/per_class/{category}/AP": 0.5 for category in (name, "other")}
    return RunCurves(name, tuple(rows), {})


@pytest.mark.parametrize("names", [["$\\frac{\r\x1b[31m\u202e\0"], ["_hidden", "$\\frac{\r\x1b[31m\u202e\0"]])
def test_a_dashboard_is_drawn_and_shows_the_names(names):
    _, texts = drawn(draw_dashboard(list(map(curves, names))))
    assert all(any(label(name) in text for text in texts) for name in names)
    assert not any(letter in text for text in texts for letter in "\r\0\x1b\u202e")


@every_name
def test_a_picture_of_attention_is_drawn(name):
    box, points = np.array(BOX), np.array([[20.0, 20.0]])
    panel = LayerPanel("decoder layer 1 of 1", box, box, points, np.ones(1), np.zeros(1, dtype=int))
    _, texts = drawn(draw_attention(np.zeros((64, 64), np.uint8), [panel], [8.0], f"{name} 0.50 on {name}"))
    assert not any(letter in text for text in texts for letter in "\r\0\x1b\u202e")


@every_name
def test_a_picture_of_a_prediction_is_drawn(name):
    how = {"names": {1: name}, "size": (64, 64), "caption": name}
    sheet = draw_picture(Image.new("L", (128, 128)), np.array([BOX]), [1], [0.9], **how)
    assert sheet.height > 128


def test_a_long_name_is_cut_and_keeps_its_ends():
    assert len(label("a" * 50 + "b" * 5000 + ".png")) == MAX_LABEL
    assert label("a" * 50 + "b" * 5000 + ".png").endswith(".png")
    assert label("a" * MAX_LABEL) == "a" * MAX_LABEL


def test_every_file_that_draws_with_matplotlib_has_the_common_style():
    """util/plots/style.py switches formulas off; a file that does not import it would read names as formulas again."""
    lacking = []
    for path in [*ROOT.glob("util/**/*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("scripts/*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        makes = any(isinstance(n, ast.Call) and getattr(n.func, "id", None) == "Figure" for n in nodes)
        if makes and "util.plots.style" not in modules:
            lacking.append(path.name)
    assert not lacking
