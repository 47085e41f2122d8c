"""Write a model card from the files of a run: python scripts/make_model_card.py logs/RUN.

With logs/RUN/eval_LIST the metrics are those of that evaluation, and the training is that of logs/RUN. The template is
docs/model_card_template.md; what the files of a run do not hold stands there as TO FILL IN.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.annotations.split import load_split
from util.base.console import echo
from util.base.errors import UserError
from util.base.files import write_atomically
from util.base.text import markdown, printable
from util.config import Config, flatten, load_run_config
from util.config.command_line import Parser
from util.config.schema import IN_CARD
from util.metrics.files import DETECTIONS, GROUND_TRUTH, load_detections
from util.metrics.report.file import REPORT, Report, describe_images, load_report
from util.metrics.tables import shown_category
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS
from util.training.checkpoints.checkpoint import BEST_NAME, OWN_NAME
from util.training.evaluation_folder import training_of

TEMPLATE = Path(__file__).resolve().parent.parent / "docs/model_card_template.md"
METRICS = {
    "AP50, class-agnostic, all images": "all/agnostic/AP50",
    "AP, class-agnostic, all images": "all/agnostic/AP",
    "AP, mean over classes (mAP), all images": "all/per_class/AP",
    "AP50, class-agnostic, images with boxes": "tb_only/agnostic/AP50",
    "sensitivity at .5 false positives per image (FROC)": "all/agnostic/froc@0.5",
    "AUC, image level": "all/image/auc",
    "sensitivity, image level, at the operating point": "all/image/sensitivity",
    "specificity, image level, at the operating point": "all/image/specificity",
    "false positives per image without a box, at the operating point": "all/image/false_alarms",
    "expected calibration error (ECE)": "all/calibration/error",
}
ORIGINS = {"these images": "the images of the metrics below", "checkpoint": "the validation images of the training"}


def main() -> None:
    """Write the card."""
    args = parse_args()
    output = args.output or args.run / "model_card.md"
    text = card_of(args.run)
    write_atomically(output, lambda file: file.write(text.encode("utf-8", errors="backslashreplace")))
    num = sum(line.startswith("TO FILL IN") for line in text.splitlines())
    echo(f"{output}: {num} lines are for you to fill in")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a run that has been evaluated, or of an evaluation in it")
    parser.add_argument("--output", type=Path, help="file to write; default: RUN/model_card.md")
    return parser.parse_args()


def card_of(folder: Path) -> str:
    """Fill in the card: metrics and their images from one report, the training from the run it belongs to.

    Raises:
        UserError: the folder holds no evaluation, or its report is not of the tables beside it.
    """
    report = report_of(folder)
    run = training_of(folder)
    values = report.metrics
    start = last_row(run, "start")
    evaluation = report.facts or last_row(folder, "eval")
    config = load_run_config(run)
    evaluated_with = load_run_config(folder)
    evaluated = report.facts or ({} if "checkpoint" in evaluation else start.get("val") or {})
    names = start.get("category_names") or report.facts.get("category_names") or {}
    missing = "not recorded in this folder"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=markdown(run.resolve().name),
        network=markdown(network(config)),
        weights=markdown(weights(run, evaluation)) or missing,
        classes=markdown(", ".join(f"{name} ({number})" for number, name in names.items())) or missing,
        threshold=threshold(report, evaluated_with),
        scale=evaluated_with.data.data_eval_scale,
        data=data(start, names) or missing,
        recipe="\n".join(f"- `{key}`: {value!r}" for key, value in recipe(config).items()),
        command=command(run),
        evaluated=markdown(images(evaluated)) + file_of(evaluated) or missing,
        metrics=metrics_table(values),
        doctor=markdown(doctor(run)),
        limits=limits({"train": start.get("train"), "val": evaluated}, names),
    )


def report_of(folder: Path) -> Report:
    """The report of the last evaluation in the folder, of the ground truth and detections beside it."""
    report = load_report(folder)
    if report is None or not (folder / "config.py").is_file():
        raise UserError(
            f"{folder}: has no {REPORT} with a config.py; give the folder of a run that was evaluated, "
            "or evaluate it first: python main.py --eval"
        )
    if report.facts and (folder / GROUND_TRUTH).is_file():
        truth = load_split(folder, folder / GROUND_TRUTH).ground_truth()
        report.require(ground_truth=truth, source=folder / GROUND_TRUTH)
        if (folder / DETECTIONS).is_file():
            report.require(detections=load_detections(folder / DETECTIONS, truth.images), source=folder / DETECTIONS)
    return report


def last_row(folder: Path, kind: str) -> Mapping[str, Any]:
    """The newest row of a kind in a log; empty where there is none."""
    rows = read_rows(folder / ROWS) if (folder / ROWS).is_file() else []
    return next((row for row in reversed(rows) if row["kind"] == kind), {})


def network(config: Config) -> str:
    """The network in a line."""
    model = config.model
    return (
        f"{model.backbone}, {model.num_feature_levels} scales, {model.enc_layers} + {model.dec_layers} layers of width "
        f"{model.hidden_dim}, {model.num_queries} queries; backbone from {model.backbone_weights!r}"
    )


def weights(run: Path, evaluation: Mapping[str, Any]) -> str:
    """Which weights were evaluated."""
    if "step" not in evaluation:
        return ""
    kind = "averaged over steps (EMA)" if evaluation.get("weights") == "ema" else "as trained"
    files = ", ".join(name for name in (BEST_NAME, OWN_NAME) if (run / name).is_file())
    checkpoint = f", {evaluation['checkpoint']}" if "checkpoint" in evaluation else ""
    position = f"after epoch {evaluation['epoch']}, step {evaluation['step']}"
    return f"{position}, {kind}{checkpoint}; in the folder: {files or 'none'}"


def threshold(report: Report, config: Config) -> str:
    """The operating point in words; an older report does not state on which images it was chosen."""
    if report.threshold is None:
        return "no operating point was chosen"
    older = {"rule": config.eval.operating_rule, "target": config.eval.operating_target}
    point: Mapping[str, Any] = report.facts.get("operating_point") or older
    rule = point.get("rule")
    target = point.get("target")
    origin = ORIGINS.get(point.get("origin", ""), "validation images")
    if rule == "given":
        return f"{report.threshold:.4g}, a threshold that was given"
    value = "" if rule == "youden" else f" of {markdown(target)}"
    return f"{report.threshold:.4g}, chosen by the rule {markdown(rule)}{value} on {origin}"


def data(start: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A line per list of images."""
    lines = []
    for which in ("train", "val"):
        if facts := start.get(which):
            boxes = ", ".join(f"{count} {names.get(k, k)}" for k, count in facts["boxes_by_category"].items())
            lines.append(f"- {which}: {markdown(f'{images(facts)}: {boxes}')}")
    return "\n".join(lines)


def images(facts: Mapping[str, Any] | None) -> str:
    """A list of images in words."""
    return describe_images(facts) if facts else ""


def file_of(facts: Mapping[str, Any]) -> str:
    """The annotation file, as the evaluation was given it: lists of two data sets may have the same name."""
    return f" ({markdown(facts['annotation_file'])})" if "annotation_file" in facts else ""


def recipe(config: Config) -> dict[str, Any]:
    """The knobs that the card lists."""
    return {key: value for key, value in flatten(config).items() if key in IN_CARD}


def command(run: Path) -> str:
    """The command that started the run, from its log."""
    lines = log_lines(run, "command: ")
    return f"Started by\n\n    {printable(lines[0])}" if lines else ""


def metrics_table(values: Mapping[str, Any]) -> str:
    """The metrics as a table; undefined ones are left out."""
    lines = ["| metric | value | 95 % |", "|---|---|---|"]
    for title, key in METRICS.items():
        if key in values:
            interval = values.get(f"{key}/ci95")
            between = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
            lines.append(f"| {title} | {values[key]:.3f} | {between} |")
    start = "all/per_class/"
    end = "/AP50"
    for key in sorted(key for key in values if key.startswith(start) and key.endswith(end) and key != f"{start}AP50"):
        name = key.removeprefix(start).removesuffix(end)
        lines.append(f"| AP50, {markdown(shown_category(name))}, all images | {values[key]:.3f} | |")
    return "\n".join(lines)


def doctor(run: Path) -> str:
    """The verdict of the doctor on the training, where the log has one."""
    lines = log_lines(run, "doctor: ")
    return f"The training by scripts/check_run.py: {lines[-1]}." if lines else ""


def log_lines(run: Path, prefix: str) -> list[str]:
    """The lines of a run's info.txt that begin with a prefix, without it."""
    path = run / "info.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]


def limits(lists: Mapping[str, Mapping[str, Any] | None], names: Mapping[str, str]) -> str:
    """Limits that follow from the lists of training and evaluation: categories without a box."""
    lines = []
    for which, facts in lists.items():
        counts = (facts or {}).get("boxes_by_category", {})
        empty = [names.get(k, k) for k, count in counts.items() if not count]
        if empty:
            what = "was not trained with a box of" if which == "train" else "was not evaluated on a box of"
            lines.append(f"- It {what} {markdown(', '.join(map(str, empty)))}.")
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
