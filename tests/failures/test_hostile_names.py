"""A data set and a run whose names are formulas, markup and escape sequences go through every command."""

import json
import shutil
import sys

import pytest

from tests.helpers.training import CONFIG, call, load_script, training
from util.distributed.exit_codes import run_to_exit_code

pytest_plugins = ["tests.helpers.training_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FILES = [
    "=cmd|a",
    "$\\frac{x$",
    "<img src=x onerror=f()>",
    "a\rb",
    "a\nb",
    "\u202egnp",
    "$x_{$",
    "\x1b[31m",
    "a|b`",
]
CATEGORIES = ["=A1\r<script>alert(1)</script>", "$\\frac{", "| a\n# h1\n[l](javascript:1)\x1b[31m\udcff`"]
KIND = {"dataset_file": "coco", "train_list": "train", "val_list": "val"}


@pytest.fixture(scope="module")
def coco(phantom, tmp_path_factory):
    """The phantom in COCO's layout under such names."""
    root = tmp_path_factory.mktemp("hostile") / "coco"
    (root / "annotations").mkdir(parents=True)
    for which in ("train", "val"):
        (root / which).mkdir()
        document = json.loads((phantom / f"annotations/json/TBX11K_{which}.json").read_text())
        for number, image in enumerate(document["images"]):
            name = f"{which[:1] * (which == 'val')}{FILES[number % len(FILES)]}{number}.png"
            shutil.copy(phantom / "imgs" / image["file_name"], root / which / name)
            image["file_name"] = name
        for category, name in zip(document["categories"], CATEGORIES, strict=True):
            category["name"] = name
        (root / f"annotations/instances_{which}.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def run(coco):
    """A training on it, in a folder that is called likewise."""
    folder = coco.parent / "$x_{$`<b>\x1b[31m"
    outcome = call(*training(coco, folder, **KIND))
    assert outcome.code == 0, outcome.err
    (coco.parent / "console.txt").write_text(outcome.out + outcome.err)
    return folder


def test_a_training_writes_names_out_on_the_console_and_in_its_log(run):
    for path in (run.parent / "console.txt", run / "info.txt"):
        text = path.read_text(encoding="utf-8")
        assert r"\x1b[31m\udcff" in text
        assert all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.parametrize(
    "command",
    [
        ["make_model_card", "RUN", "--output", "OUT/card.md"],
        ["check_run", "RUN"],
        ["plot_run", "RUN", "--output", "OUT/curves.png"],
        ["show_detections", "RUN", "--data_path", "DATA", "--output", "OUT/detections.png"],
        ["plot_evaluation", "RUN", "--data_path", "DATA", "--bootstrap", "9", "--output_dir", "OUT"],
        ["show_batch", "-c", str(CONFIG), "--data_path", "DATA", "--output", "OUT/batch.png", "--options", "KIND"],
        ["show_attention", "--checkpoint", "RUN/best.pth", "IMAGE", "--output_dir", "OUT"],
        [
            "predict",
            "DATA/val",
            "--output_dir",
            "OUT",
            "--draw",
            "all",
            "--threshold",
            "0",
            "--checkpoint",
            "RUN/best.pth",
        ],
    ],
    ids=lambda command: command[0],
)
def test_a_script_does_its_work_and_steers_no_terminal(command, run, coco, tmp_path, monkeypatch, capsys):
    image = next(path for path in sorted((coco / "val").iterdir()) if "frac" in path.name)
    places = {"RUN": run, "DATA": coco, "OUT": tmp_path, "IMAGE": image}
    words = []
    for word in command[1:]:
        first, *rest = word.split("/")
        words += [f"{key}={value}" for key, value in KIND.items()] if word == "KIND" else []
        words += ["/".join([str(places.get(first, first)), *rest])] if word != "KIND" else []
    monkeypatch.setattr(sys, "argv", [command[0], *words])
    assert run_to_exit_code(load_script(command[0]).main) == 0
    out, err = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)
    assert command[0] == "check_run" or any(path.stat().st_size for path in tmp_path.rglob("*.*"))
