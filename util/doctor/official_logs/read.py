"""Logs of the official DINO code and its forks as a `History`: recovered what can be, named what says nothing.

Most of what such a log shows is averaged over steps without a box, in which class_error is 100 and losses are near 0.
`util.doctor.official_logs.recovery` has the formulas, `util.doctor.official_logs.console` the reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from util.base.errors import UserError
from util.base.numbers import number
from util.base.text import first_few
from util.doctor.official_logs import recovery as recovery
from util.doctor.official_logs.console import PREFIXES, SETTINGS, RawEpoch, Reading, Shown, figure, json_object
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
FILES = ("info.txt", "log.txt")  # of the official run folder
DUMPS = ("config_args_all.json", "config_args_raw.json")  # beside the official log.txt


class ForeignLogError(UserError):
    """A file is no log of the official code or a fork."""


def read_foreign(path: Path, stated: Mapping[str, float] | None = None) -> History:
    """The run that a log of the official code or a fork tells, under the column names of log.jsonl.

    Args:
        path: log.txt, a console log, or the folder of a run.
        stated: settings that the reader knows and the log does not tell, such as `focal_alpha`.

    Raises:
        ForeignLogError: nothing at all could be read, or not the file.
    """
    return read_with_recovery(path, stated)[0]


def read_with_recovery(path: Path, stated: Mapping[str, float] | None = None) -> tuple[History, recovery.Recovered]:
    """`read_foreign`, and what it was worked out with."""
    reading = Reading()
    for line in _lines(path):
        reading.feed(line)
    reading.finish()
    epochs = reading.epochs()
    if not epochs:
        raise ForeignLogError(
            f"{path}: expected a log.txt with one JSON object per epoch (train_loss, test_coco_eval_bbox, ...) or "
            "console lines (Epoch: [0]  [ 10/100] ... loss: 1.2 (1.3)) of the official DINO code or a fork; found "
            "neither. Give that file, or the logs/RUN folder of a run of this repository"
        )
    starts = _starts(reading, path, epochs[0].number)
    recovered = recovery.recover(epochs, {**_settings(starts), **(stated or {})})
    recovered = replace(recovered, remarks=(*recovered.remarks, *_remarks(reading)))
    history = History(
        "log of the official DINO code or a fork",
        tuple(_epoch(raw, recovered) for raw in epochs),
        starts,
        _not_finite(epochs, reading.stopped),
        tuple(_artefacts(epochs, recovered, reading.shown)),
    )
    return history, recovered


def _lines(log: Path) -> Iterator[str]:
    """Lines of a file, or of the logs in a folder."""
    files = [log / name for name in FILES if (log / name).is_file()] if log.is_dir() else [log]
    for file in files:
        try:
            with file.open(encoding=_encoding(file), errors="replace") as lines:
                yield from (line.rstrip() for line in lines)
        except OSError as e:
            raise ForeignLogError(f"{file}: cannot be read ({e.strerror}); give a log.txt or what a job printed") from e


def _encoding(file: Path) -> str:
    """A console log that PowerShell wrote is UTF-16."""
    with file.open("rb") as start:
        return "utf-16" if start.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _starts(reading: Reading, path: Path, first: int) -> tuple[dict[str, Any], ...]:
    """Rows of kind "start" with the settings that were printed, or else dumped beside the log."""
    found = reading.starts or [(first, dumped) for dumped in [_dumped(path)] if dumped]
    return tuple({"kind": "start", "epoch": epoch, "config": _legal(settings)} for epoch, settings in found)


def _settings(starts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The newest of each."""
    return {name: value for start in starts for name, value in start["config"].items()}


def _dumped(path: Path) -> dict[str, Any]:
    """Settings that the official code wrote beside its log; where they are not whole, the log is read without them."""
    folder, is_official = (path, True) if path.is_dir() else (path.parent, path.name == "log.txt")
    dumps = [folder / name for name in DUMPS if is_official and (folder / name).is_file()]
    dump = (json_object(dumps[0].read_text(encoding="utf-8", errors="replace")) if dumps else None) or {}
    return {name: dump[name] for name in SETTINGS if number(dump.get(name)) is not None}


def _legal(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what no run can have: it was read from something else."""
    anything = (-math.inf, math.inf)
    return {k: v for k, v in settings.items() if LEGAL.get(k, anything)[0] <= v <= LEGAL.get(k, anything)[1]}


def _loss(values: Mapping[str, Any], prefix: str, name: str, settings: Mapping[str, Any]) -> float | None:
    """A loss term without its weight: the official code logs it under _unscaled, and weighted under its name."""
    weighted, unscaled = (number(values.get(f"{prefix}{name}{suffix}")) for suffix in ("", "_unscaled"))
    if unscaled is not None or weighted is None:
        return unscaled
    knob, official = next(w for term, w in WEIGHTS.items() if name.startswith(term))
    weight = settings.get(knob, official)
    return weighted / weight if weight else None


def _epoch(raw: RawEpoch, recovered: recovery.Recovered) -> Epoch:
    values = raw.values
    settings = recovered.settings
    logged = figure(values, "train_class_error")
    terms = [f"{loss}{suffix}" for loss in WEIGHTS for suffix in ("", "_dn", "_interm")]
    train_ce, test_ce, ema_ce = (_loss(values, prefix, "loss_ce", settings) for prefix in PREFIXES)
    skill = partial(_skills, recovered=recovered)
    batch = (settings["batch_size"], settings["world_size"])
    figures = {
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
        "cardinality_error_official": figure(values, "train_cardinality_error"),
        **skill("", train_ce, recovered.share_of_images, recovered.boxes_per_image, batch),
        **skill("test_", test_ce, recovered.test_share_of_images, recovered.test_boxes_per_image, (1, 1)),
        **skill("ema_test_", ema_ce, recovered.test_share_of_images, recovered.test_boxes_per_image, (1, 1)),
    }
    known = {name: value for name, value in figures.items() if value is not None}
    return Epoch(raw.number, known, _evaluation(values), is_whole=raw.is_whole)


def _skills(
    prefix: str,
    loss_ce: float | None,
    share: float | None,
    boxes: float | None,
    batch: tuple[int, int],
    *,
    recovered: recovery.Recovered,
) -> dict[str, float | None]:
    """The class skill at the alpha of the run, or at both usual ones."""
    if loss_ce is None or not share or not recovered.num_queries:
        return {}
    trained = recovered.boxes_per_image / recovered.share_of_images
    each = trained if boxes is None else boxes / share
    known = recovered.settings.get("focal_alpha")
    settings = recovered.settings
    mix = recovery.class_mix(settings.get("num_classes"))
    found = {}
    for alpha in ALPHAS if known is None else (known,):
        focal = FocalSettings(alpha, settings["focal_gamma"], recovered.num_queries)
        suffix = f"_if_alpha_{100 * alpha:.0f}" if known is None else ""
        constant = recovery.constant_loss(share, each, focal, mix, *batch)
        found[f"{prefix}loss_ce_of_best_constant{suffix}"] = constant
        found[f"{prefix}class_skill{suffix}"] = class_skill(loss_ce, constant)
    return found


def _evaluation(values: Mapping[str, Any]) -> dict[str, Any]:
    """COCO figures: of the EMA where there is one, and of the plain weights under `model/`."""
    plain, ema = (_coco(values.get(f"{prefix}coco_eval_bbox")) for prefix in PREFIXES[1:])
    judged = ema or plain
    if not judged:
        return {}
    return {"weights": "ema" if ema else "model", **judged, **{f"model/{name}": v for name, v in plain.items()}}


def _coco(figures: Any) -> dict[str, float]:
    if not isinstance(figures, list):
        return {}
    found = {name: number(figures[i]) for name, i in COCO.items() if i < len(figures)}
    return {f"all/per_class/{name}": v for name, v in found.items() if v is not None and v >= 0}  # -1: no truth


def _not_finite(epochs: Iterable[RawEpoch], stopped: Iterable[int]) -> tuple[dict[str, Any], ...]:
    """Epochs whose training losses have a NaN, or at whose end the official code stopped for one."""
    ill = set(stopped)
    for epoch in epochs:
        losses = [v for k, v in epoch.values.items() if k.startswith("train_") and "loss" in k]
        if any(isinstance(v, float) and not math.isfinite(v) for v in losses):
            ill.add(epoch.number)
    return tuple({"kind": "nonfinite", "epoch": n} for n in sorted(ill))


def _remarks(reading: Reading) -> list[str]:
    dropped = sorted(set(reading.dropped))
    if not dropped:
        return []
    return [f"the run went back; what the log has of epochs {first_few(dropped, 5)} from before that is left out"]


def _artefacts(epochs: Sequence[RawEpoch], recovered: recovery.Recovered, shown: Shown) -> Iterator[str]:
    """Figures that say something else than they seem to, in words."""
    logged = [v for e in epochs if (v := figure(e.values, "train_class_error")) is not None]
    is_known = recovered.is_class_error_known
    if logged and not is_known:
        yield _class_error_text(logged, recovered)
    if any("cardinality_error_dn" in key for e in epochs for key in e.values) or recovered.boxes_per_image is not None:
        yield _cardinality_text(epochs, recovered)
    sure = _share(shown.class_error_100, shown.with_class_error)
    nought = _share(shown.loss_0, shown.with_loss)
    if sure > recovery.FEW and not is_known and (recovered.share_of_steps is not None or nought > recovery.FEW):
        yield (
            f"class_error reads exactly 100.00 on {sure:.0%} of {shown.with_class_error} console lines: the line shows "
            "the last step alone, and 100 is what the official code gives a step without boxes"
        )
    mean = next((v for e in reversed(epochs) if (v := number(e.values.get("train_loss"))) is not None), 0.0)
    if nought > recovery.FEW and mean > 0:
        yield (
            f"loss reads 0.0000 on {nought:.0%} of {shown.with_loss} console lines: that is the median of the last 20 "
            f"steps, most of them without a box; the mean of the epoch, in brackets, is {mean:.4g}"
        )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _class_error_text(logged: Sequence[float], recovered: recovery.Recovered) -> str:
    spread = f"{min(logged):.1f}" if max(logged) - min(logged) < 0.05 else f"{min(logged):.1f} to {max(logged):.1f}"
    rule = f"class_error ({spread}): the official code counts a step without boxes as 100 % wrong"
    if recovered.share_of_steps is None:
        return f"{rule}, and their share could not be recovered from this log: it may say nothing of the network"
    last = recovered.class_error(logged[-1])
    empty = f"{rule}, and {1 - recovered.share_of_steps:.1%} of the steps have none: it says nothing of the network"
    return empty if last is None else f"{empty}. Over steps with boxes it is {last:.0f} in the last epoch"


def _cardinality_text(epochs: Sequence[RawEpoch], recovered: recovery.Recovered) -> str:
    errors = [v for e in epochs if (v := figure(e.values, "train_cardinality_error")) is not None]
    largest = f" (up to {max(errors):.2f})" if errors else ""
    rule = "it counts the queries whose best class is not the last one, whatever their scores"
    if recovered.boxes_per_image is None:
        return f"cardinality_error{largest} says nothing of the network: {rule}"
    return (
        f"cardinality_error{largest} is the {recovered.num_queries} queries less about {recovered.boxes_per_image:.3g} "
        f"boxes per image, for a good and for a useless network: {rule}"
    )
