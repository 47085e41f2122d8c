"""scripts/make_model_card.py: what a run is, in the words of its own files."""

import json
import re
import shutil

import pytest

from tests.helpers.training import ROOT, annotations, call, copy_run, load_script, metrics
from util.base.errors import UserError
from util.base.text import markdown
from util.distributed.exit_codes import run_to_exit_code

pytest_plugins = ["tests.helpers.training_fixtures"]
CARD = load_script("make_model_card")


@pytest.fixture
def copied(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("*.pth"))
    (folder / "best.pth").touch()
    return folder


def test_the_card_holds_data_recipe_figures_and_the_notice(copied):
    report = json.loads((copied / "report.json").read_text())
    text = CARD.card_of(copied)
    assert "This is not a medical device" in text
    assert "- train: TBX11K_train, 12 images, 6 with boxes" in text
    assert "On TBX11K_val, 6 images" in text
    assert "`epochs`: 2" in text
    assert f"| AP, class-agnostic, all images | {report['all/agnostic/AP']:.3f} | [" in text
    assert "best.pth" in text
    assert re.search("It was not trained with a box of .*PulmonaryTuberculosis", text)
    assert not re.search(r"\$\w", text)


def test_what_is_not_defined_is_left_out(copied):
    report = json.loads((copied / "report.json").read_text())
    (copied / "report.json").write_text(json.dumps({k: v for k, v in report.items() if not k.startswith("all/image")}))
    text = CARD.card_of(copied)
    assert "AUC, image level |" not in text
    assert "AP, class-agnostic" in text


def test_without_a_log_the_gaps_are_told(copied):
    for name in ("log.jsonl", "info.txt"):
        (copied / name).unlink()
    assert CARD.card_of(copied).count("not recorded in this folder") == 1, "the lists of the training"
    (copied / "report.json").write_text(json.dumps(metrics(copied)))  # as older versions wrote it
    assert CARD.card_of(copied).count("not recorded in this folder") == 4


@pytest.mark.parametrize("content", [None, "no json", "[1]"])
def test_a_folder_that_was_not_evaluated_is_refused(copied, content):
    (copied / "report.json").unlink()
    if content is not None:
        (copied / "report.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluate"):
        CARD.card_of(copied)


def test_the_script_counts_what_is_left_to_do(copied, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_model_card.py", str(copied)])
    assert run_to_exit_code(CARD.main) == 0
    template = (ROOT / "docs/model_card_template.md").read_text()
    num = len(re.findall(r"^TO FILL IN", template, re.M))
    assert f"{num} lines are for you to fill in" in capsys.readouterr().out
    assert (copied / "model_card.md").read_text().startswith("# Model card: run")


HOSTILE = "a | b`\n# Not a heading\n\n<script>alert(1)</script>[l](javascript:1)$x_{$\x1b[31m\u202e"


def replaced(value, name):
    """A JSON value with `name` in place of every text in it that the card could show."""
    if isinstance(value, dict):
        return {key: replaced(part, name) for key, part in value.items()}
    return name if isinstance(value, str) else value


@pytest.fixture
def hostile(copied, tmp_path):
    """A run whose files hold text that would be markup, in a folder that is called so."""
    lines = [json.loads(line) for line in (copied / "log.jsonl").read_text().splitlines()]
    rows = [row | replaced({k: v for k, v in row.items() if k != "kind"}, HOSTILE) for row in lines]
    rows += [{"kind": "eval", "epoch": HOSTILE, "step": HOSTILE, "weights": HOSTILE, "checkpoint": HOSTILE}]
    (copied / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (copied / "info.txt").write_text(f"command: python \x1b[31m`<b>\u202e\ndoctor: {HOSTILE.replace(chr(10), ' ')}\n")
    report = json.loads((copied / "report.json").read_text())
    report |= {f"all/per_class/{HOSTILE.replace('/', '')}/AP50": 0.5}
    (copied / "report.json").write_text(json.dumps(report))
    return copied.rename(tmp_path / HOSTILE.replace("/", "").replace("\n", ""))


def test_names_in_the_card_are_neither_headings_nor_html_links_formulas_or_cells(hostile, copied):
    del copied
    text = CARD.card_of(hostile)
    template = (ROOT / "docs/model_card_template.md").read_text()
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert re.findall(r"^#.*", outside_code, re.M)[1:] == re.findall(r"^#.*", template, re.M)[1:]
    assert outside_code.count("<") == template.count("<")
    assert not re.search(r"(?<!\\)\[l|(?<!\\)\$|[\x1b\u202e\r]", outside_code)
    for line in re.findall(r"^\|.*", outside_code, re.M):
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4), line
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("Not a heading") >= 5


@pytest.fixture
def evaluated(trained, data, room):
    """(run, folder of its evaluation on a list of the same name without one image)."""
    run = copy_run(trained, room / "run")
    listed = json.loads(annotations(data, "val").read_text())
    gone = listed["images"].pop()
    listed["annotations"] = [box for box in listed["annotations"] if box["image_id"] != gone["id"]]
    annotations(data, "val").write_text(json.dumps(listed))
    outcome = call("--eval", "--resume", run / "best.pth", "--data_path", data)
    assert outcome.code == 0, outcome.err
    return run, run / "eval_TBX11K_val"


def test_the_metrics_and_the_images_of_a_card_come_from_the_same_report(evaluated, data, phantom):
    for folder, images, path in zip(evaluated, (6, 5), (phantom, data), strict=True):
        report, text = metrics(folder), CARD.card_of(folder)
        assert f"\nOn TBX11K_val, {images} images, " in text
        assert f"({markdown(annotations(path, 'val'))})" in text
        assert f"| AP, class-agnostic, all images | {report['all/agnostic/AP']:.3f} | [" in text
        assert "- val: TBX11K_val, 6 images" in text, "that of the training"
        assert "`epochs`: 2" in text
        assert text.startswith("# Model card: run\n")


@pytest.mark.parametrize("name", ["truth.json.gz", "detections.json.gz"])
def test_a_report_beside_tables_of_another_evaluation_makes_no_card(evaluated, name):
    run, folder = evaluated
    shutil.copy(run / name, folder)
    with pytest.raises(UserError, match=r"was replaced or changed; evaluate the run|made on another split"):
        CARD.card_of(folder)


def test_an_older_report_of_other_images_is_not_said_to_be_of_the_validation_list(copied):
    """Versions before wrote an evaluation of another data set into the run folder."""
    (copied / "report.json").write_text(json.dumps(metrics(copied)))
    assert "\nOn TBX11K_val, 6 images" in CARD.card_of(copied)
    with (copied / "log.jsonl").open("a") as log:
        row = {"kind": "eval", "epoch": 1, "step": 6, "weights": "ema", "checkpoint": "best.pth"}
        log.write(json.dumps(row) + "\n")
    assert "\nOn not recorded in this folder. " in CARD.card_of(copied)
