"""Read a log of the official DINO code or a fork as a `History`, and name the metrics that mislead.

Most values of such a log are averaged over steps without a box, in which class_error is 100 and losses are near 0.
`recovery` has the formulas that undo this, `console` parses the lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.numbers import number
from util.doctor.official_logs import recovery
from util.doctor.official_logs.console import (
    PREFIXES,
    SETTINGS,
    LogParser,
    RawEpoch,
    finite_value,
    json_object,
)
from util.doctor.official_logs.crashes import CrashParser
from util.runlog.class_skill import FocalSettings, class_skill
from util.runlog.history import Epoch, History

WEIGHTS = {
    "loss_ce": ("cls_loss_coef", 1.0),
    "loss_bbox": ("bbox_loss_coef", 5.0),
    "loss_giou": ("giou_loss_coef", 2.0),
}
LEGAL = {"focal_alpha": (0, 1), "num_queries": (1, 100_000), "dn_number": (0, 10_000), "num_classes": (1, 100_000)}
LEGAL |= {"batch_size": (1, 64), "world_size": (1, 64)}
COCO = {"AP": 0, "AP50": 1, "AP75": 2, "AR1": 6, "AR10": 7, "AR100": 8}
ALPHAS = (0.25, 0.75)
OFFICIAL_FILES = ("info.txt", "log.txt")  # of the official run folder
DUMPS = ("config_args_all.json", "config_args_raw.json")  # beside the official log.txt


class OfficialLogError(UserError):
    """A file is not a log of the official code or a fork."""


def read_official_log(path: Path, settings: Mapping[str, float] | None = None) -> History:
    """Read a log of the official code or a fork under the column names of log.jsonl.

    Args:
        path: log.txt, a console log, or the folder of a run.
        settings: settings that are missing in the log, such as `focal_alpha`.

    Raises:
        OfficialLogError: the file cannot be read, or has no line of such a log.
    """
    parser = LogParser()
    crash_parser = CrashParser()
    for line in _lines(path):
        parser.feed(line)
        crash_parser.feed(line, parser.epoch, parser.progress)
    parser.finish()
    epochs = parser.epochs()
    crashes = crash_parser.crashes(parser.progress)
    if not epochs and crashes:
        return History("output of a run without an epoch", (), _starts(parser, path, 0), crashes=crashes)
    if not epochs:
        raise OfficialLogError(
            f"{path}: expected a log.txt with one JSON object per epoch (train_loss, test_coco_eval_bbox, ...) or "
            "console lines (Epoch: [0]  [ 10/100] ... loss: 1.2 (1.3)) of the official DINO code or a fork; found "
            "neither, and no message of a crash. Give that file, or the logs/RUN folder of a run of this repository"
        )
    starts = _starts(parser, path, epochs[0].number)
    logged = {name: value for start in starts for name, value in start["config"].items()}  # the newest of each
    recovered = recovery.recover(epochs, {**logged, **(settings or {})})
    return History(
        "log of the official DINO code or a fork",
        tuple(_epoch(raw, recovered) for raw in epochs),
        starts,
        _not_finite(epochs, parser.stopped),
        tuple(_artefacts(epochs, recovered, parser)),
        crashes,
    )


def _lines(log: Path) -> Iterator[str]:
    """Lines of a file, or of the logs in a folder."""
    files = [log / name for name in OFFICIAL_FILES if (log / name).is_file()] if log.is_dir() else [log]
    for file in files:
        try:
            with file.open(encoding=_encoding(file), errors="replace") as lines:
                yield from (line.rstrip() for line in lines)
        except OSError as e:
            raise OfficialLogError(
                f"{file}: cannot be read ({e.strerror}); give a log.txt or the output of a job"
            ) from e


def _encoding(file: Path) -> str:
    """Encoding of a text file; PowerShell writes UTF-16."""
    with file.open("rb") as start:
        return "utf-16" if start.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _starts(parser: LogParser, path: Path, first: int) -> tuple[dict[str, Any], ...]:
    """Rows of kind "start" with the settings printed in the log, or else dumped beside it."""
    found = parser.starts or [(first, dumped) for dumped in [_dumped(path)] if dumped]
    return tuple({"kind": "start", "epoch": epoch, "config": _legal(settings)} for epoch, settings in found)


def _dumped(path: Path) -> dict[str, Any]:
    """Settings that the official code dumped beside its log; empty where that file is damaged or missing."""
    folder, is_official = (path, True) if path.is_dir() else (path.parent, path.name == "log.txt")
    dumps = [folder / name for name in DUMPS if is_official and (folder / name).is_file()]
    dump = (json_object(dumps[0].read_text(encoding="utf-8", errors="replace")) if dumps else None) or {}
    return {name: dump[name] for name in SETTINGS if number(dump.get(name)) is not None}


def _legal(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop values that no run can have; they come from unrelated text."""
    anything = (-math.inf, math.inf)
    return {k: v for k, v in settings.items() if LEGAL.get(k, anything)[0] <= v <= LEGAL.get(k, anything)[1]}


def _loss(values: Mapping[str, Any], prefix: str, name: str, settings: Mapping[str, Any]) -> float | None:
    """A loss term without its weight; the official code logs it as NAME_unscaled, and weighted as NAME."""
    weighted, unscaled = (number(values.get(f"{prefix}{name}{suffix}")) for suffix in ("", "_unscaled"))
    if unscaled is not None or weighted is None:
        return unscaled
    knob, official = next(w for term, w in WEIGHTS.items() if name.startswith(term))
    weight = settings.get(knob, official)
    return weighted / weight if weight else None


def _epoch(raw: RawEpoch, recovered: recovery.Recovered) -> Epoch:
    values = raw.values
    settings = recovered.settings
    logged = finite_value(values, "train_class_error")
    terms = [f"{loss}{suffix}" for loss in WEIGHTS for suffix in ("", "_dn", "_interm")]
    train_ce, test_ce, ema_ce = (_loss(values, prefix, "loss_ce", settings) for prefix in PREFIXES)
    batch = (settings["batch_size"], settings["world_size"])
    per_positive = recovered.boxes_per_positive
    share = recovered.test_share_of_images
    test_boxes = recovered.test_boxes_per_image
    test_per_positive = test_boxes / share if share and test_boxes is not None else per_positive
    columns = {
        "lr": number(values.get("train_lr")),
        "loss": number(values.get("train_loss")),
        **{term: _loss(values, "train_", term, settings) for term in terms},
        "class_error": None if logged is None else recovered.class_error(logged),
        "boxes_per_image": recovered.boxes_per_image,
        "images_share_with_boxes": recovered.share_of_images,
        "test_loss": number(values.get("test_loss")),
        "test_loss_ce": test_ce,
        "ema_test_loss": number(values.get("ema_test_loss")),
        "ema_test_loss_ce": ema_ce,
        "data_share": number(values.get("train_data_share")),
        "class_error_official": logged,
        "cardinality_error_official": finite_value(values, "train_cardinality_error"),
        **_skills("", train_ce, recovered.share_of_images, per_positive, batch, recovered),
        **_skills("test_", test_ce, share, test_per_positive, (1, 1), recovered),
        **_skills("ema_test_", ema_ce, share, test_per_positive, (1, 1), recovered),
    }
    known = {name: value for name, value in columns.items() if value is not None}
    return Epoch(raw.number, known, _evaluation(values), is_whole=raw.is_whole)


def _skills(
    prefix: str,
    loss_ce: float | None,
    share: float | None,
    boxes_per_positive: float | None,
    batch: tuple[int, int],
    recovered: recovery.Recovered,
) -> dict[str, float | None]:
    """The class skill at the alpha of the run, or at both usual ones."""
    if loss_ce is None or not share or boxes_per_positive is None or not recovered.num_queries:
        return {}
    settings = recovered.settings
    known = settings.get("focal_alpha")
    mix = recovery.class_mix(settings.get("num_classes"))
    found: dict[str, float | None] = {}
    for alpha in ALPHAS if known is None else (known,):
        focal = FocalSettings(alpha, settings["focal_gamma"], recovered.num_queries)
        suffix = f"_if_alpha_{100 * alpha:.0f}" if known is None else ""
        constant = recovery.constant_loss(share, boxes_per_positive, focal, mix, *batch)
        found[f"{prefix}loss_ce_of_best_constant{suffix}"] = constant
        found[f"{prefix}class_skill{suffix}"] = class_skill(loss_ce, constant)
    return found


def _evaluation(values: Mapping[str, Any]) -> dict[str, Any]:
    """COCO metrics of the EMA where there is one, and of the plain weights under `model/`."""
    plain, ema = (_coco(values.get(f"{prefix}coco_eval_bbox")) for prefix in PREFIXES[1:])
    if not plain and not ema:
        return {}
    return {"weights": "ema" if ema else "model", **(ema or plain), **{f"model/{name}": v for name, v in plain.items()}}


def _coco(values: Any) -> dict[str, float]:
    if not isinstance(values, list):
        return {}
    found = {name: number(values[i]) for name, i in COCO.items() if i < len(values)}
    return {f"all/per_class/{name}": v for name, v in found.items() if v is not None and v >= 0}  # -1: no ground truth


def _not_finite(epochs: Iterable[RawEpoch], stopped: Iterable[int]) -> tuple[dict[str, Any], ...]:
    """Rows for epochs with a training loss that is not finite, or in which the official code stopped for one."""
    numbers = set(stopped)
    for epoch in epochs:
        losses = [v for k, v in epoch.values.items() if k.startswith("train_") and "loss" in k]
        if any(isinstance(v, float) and not math.isfinite(v) for v in losses):
            numbers.add(epoch.number)
    return tuple({"kind": "nonfinite", "epoch": n} for n in sorted(numbers))


def _artefacts(epochs: Sequence[RawEpoch], recovered: recovery.Recovered, parser: LogParser) -> Iterator[str]:
    """One line for every metric of the log that misleads."""
    logged = [v for e in epochs if (v := finite_value(e.values, "train_class_error")) is not None]
    is_known = recovered.is_class_error_known
    if logged and not is_known:
        yield _class_error_text(logged, recovered)
    if any("cardinality_error_dn" in key for e in epochs for key in e.values) or recovered.boxes_per_image is not None:
        yield _cardinality_text(epochs, recovered)
    hundred = parser.misleading_share("class_error")
    zero = parser.misleading_share("loss")
    has_empty_steps = recovered.share_of_steps is not None or zero > recovery.FEW_EMPTY
    if hundred > recovery.FEW_EMPTY and has_empty_steps and not is_known:
        yield (
            f"class_error is exactly 100.00 on {hundred:.0%} of {parser.shown['class_error']} console lines: they show "
            "the last step alone, and the official code logs 100 for a step without boxes"
        )
    mean = next((v for e in reversed(epochs) if (v := number(e.values.get("train_loss"))) is not None), 0.0)
    if zero > recovery.FEW_EMPTY and mean > 0:
        yield (
            f"loss is 0.0000 on {zero:.0%} of {parser.shown['loss']} console lines: that is the median of the last 20 "
            f"steps, most of them without a box; the mean of the epoch, in brackets, is {mean:.4g}"
        )


def _class_error_text(logged: Sequence[float], recovered: recovery.Recovered) -> str:
    spread = f"{min(logged):.1f}" if max(logged) - min(logged) < 0.05 else f"{min(logged):.1f} to {max(logged):.1f}"
    rule = f"class_error ({spread}): the official code counts a step without boxes as 100 % wrong"
    if recovered.share_of_steps is None:
        return f"{rule}, and their share could not be recovered from this log: it may not describe the network"
    last = recovered.class_error(logged[-1])
    empty = f"{rule}, and {1 - recovered.share_of_steps:.1%} of the steps have none: it does not describe the network"
    return empty if last is None else f"{empty}. Over steps with boxes it is {last:.0f} in the last epoch"


def _cardinality_text(epochs: Sequence[RawEpoch], recovered: recovery.Recovered) -> str:
    errors = [v for e in epochs if (v := finite_value(e.values, "train_cardinality_error")) is not None]
    largest = f" (up to {max(errors):.2f})" if errors else ""
    rule = "it counts the queries whose best class is not the last one, whatever their scores"
    if recovered.boxes_per_image is None:
        return f"cardinality_error{largest} does not describe the network: {rule}"
    return (
        f"cardinality_error{largest} is the {recovered.num_queries} queries less about {recovered.boxes_per_image:.3g} "
        f"boxes per image, for a good and for a useless network: {rule}"
    )
