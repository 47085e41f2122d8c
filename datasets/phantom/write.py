"""Write a synthetic TBX11K in the real layout, to try, test and time without the real data.

    make_phantom(Path("data/phantom"), train=400, val=100, seed=0)
    write_phantom(plan_phantom_like(Path("TBX11K"), seed=0, limit=24), Path("data/phantom"))

Every file follows from the arguments and the seed alone, whatever the number of workers.
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.phantom.plan import PhantomError, PhantomPlan, PlannedImage, plan_phantom
from datasets.phantom.render import render_case
from datasets.phantom.statistics import POSITIVE_FRACTION
from util.base.errors import WorkerDied
from util.base.processes import die_with_parent

RECORD = "phantom.json"
UNFINISHED_RECORD = "phantom_unfinished.json"
RECIPE_FORMAT = 1  # changes whenever the same recipe would give other files
PNG_LEVEL = 1  # zlib level: the fastest; the files are a quarter larger than at the default


def make_phantom(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int,
    positive_fraction: float = POSITIVE_FRACTION,
    size: int = 512,
    workers: int = 0,
) -> None:
    """Write a phantom of `train` and `val` square images of `size` pixels below `out`.

    `workers` = 0 or 1 draws in this process. Raises PhantomError for impossible numbers and for a folder that
    holds anything but this very phantom; the latter is left as it is.
    """
    write_phantom(plan_phantom(train, val, seed, positive_fraction, size), Path(out), workers)


def write_phantom(
    plan: PhantomPlan, out: Path, workers: int = 0, after_image: Callable[[], None] | None = None
) -> bool:
    """Write all files of `plan`; False where `out` holds them already.

    An interrupted phantom of the same recipe is restarted. The record is written last.
    """
    recipe = {"format": RECIPE_FORMAT, **plan.recipe}
    if not _claim(out, recipe):
        return False
    for planned in plan.images:
        (out / "imgs" / planned.case.name).parent.mkdir(parents=True, exist_ok=True)
    for _ in _save_all(plan.images, out / "imgs", workers):
        if after_image:
            after_image()
    _write_annotations(plan, out)
    (out / UNFINISHED_RECORD).replace(out / RECORD)
    return True


def save_image(planned: PlannedImage, folder: Path) -> None:
    """Draw or copy one image below `folder`, the imgs/ of a phantom."""
    path = folder / planned.case.name
    if planned.source:
        shutil.copyfile(planned.source, path)
        return
    grey = Image.fromarray(render_case(planned.case, max(planned.width, planned.height)))
    if grey.size != (planned.width, planned.height):
        grey = grey.resize((planned.width, planned.height), Image.Resampling.BILINEAR)
    image = Image.fromarray(np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    if path.suffix.lower() in (".jpg", ".jpeg"):
        image.save(path, quality=95)
    else:
        image.save(path, compress_level=PNG_LEVEL)


def _claim(out: Path, recipe: dict) -> bool:
    """Whether there is work to do in `out`; marks the folder as unfinished."""
    if out.exists() and not out.is_dir():
        raise PhantomError(f"{out} is a file; give a folder that is empty or does not exist")
    for name in (RECORD, UNFINISHED_RECORD):
        if not (out / name).exists():
            continue
        found = _read_record(out / name)
        if found != recipe:
            raise PhantomError(
                f"{out} holds synthetic X-rays of other settings, {_difference(found, recipe)}; remove that folder or "
                "give another one"
            )
        return name != RECORD
    if out.exists() and any(out.iterdir()):
        raise PhantomError(f"{out} is not empty and holds no phantom; give a folder that is empty or does not exist")
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED_RECORD).write_text(json.dumps(recipe, indent=1) + "\n")
    return True


def _read_record(path: Path) -> dict:
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise PhantomError(f"{path} is not the record of a phantom ({error}); remove that folder") from error
    if not isinstance(record, dict):
        raise PhantomError(f"{path} is not the record of a phantom; remove that folder")
    return record


def _difference(found: dict, expected: dict) -> str:
    keys = [k for k in sorted({*found, *expected}) if found.get(k) != expected.get(k)]
    return ", ".join(f"{k} {found.get(k)} instead of {expected.get(k)}" for k in keys)


def _save_all(images: list[PlannedImage], folder: Path, workers: int) -> Iterator[None]:
    if workers <= 1:
        for planned in images:
            save_image(planned, folder)
            yield
        return
    pool = ProcessPoolExecutor(workers, initializer=_leave_ctrl_c_to_parent)
    is_whole = False
    try:
        yield from pool.map(save_image, images, repeat(folder), chunksize=2)
        is_whole = True
    except BrokenProcessPool as error:
        raise WorkerDied(
            f"one of the {workers} drawing processes was killed, perhaps for lack of memory: lower --workers; the "
            "same command restarts"
        ) from error
    finally:
        pool.shutdown(wait=is_whole, cancel_futures=True)


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def _write_annotations(plan: PhantomPlan, out: Path) -> None:
    for folder in ("annotations/json", "annotations/xml", "lists"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name, document in plan.documents.items():
        (out / "annotations/json" / f"{name}.json").write_text(json.dumps(document))
    for name, members in plan.lists.items():
        (out / "lists" / f"{name}.txt").write_text("".join(f"{m}\n" for m in members))
    for stem, content in plan.xml.items():
        text = content.read_text() if isinstance(content, Path) else content
        (out / "annotations/xml" / f"{stem}.xml").write_text(text)
