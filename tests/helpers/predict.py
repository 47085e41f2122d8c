"""scripts/predict.py within this process, and what its tests look at."""

import csv
import io
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import numpy as np
from PIL import Image

from tests.helpers.training import Outcome, load_script
from util.distributed.exit_codes import run_to_exit_code

PREDICT = load_script("predict")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)


def predict(*arguments):
    """Run it within this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = run_to_exit_code(partial(PREDICT.main, [*map(str, arguments), "--device", "cpu"]))
        except SystemExit as end:
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    """Content by path; what begins with a dot is nobody's business."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def bad_files(folder):
    """A file of every kind that cannot be read."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, "PNG")
    (folder / "cut.png").write_bytes(content.getvalue()[:200])
    Image.fromarray(PIXELS.astype(np.float32)).save(folder / "float.tif")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    return folder
