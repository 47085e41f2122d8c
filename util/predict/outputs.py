"""The output folder of a prediction: its files and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from util.base.errors import UserError
from util.base.text import first_few

PROGRESS_FILE = "progress.jsonl"
PICTURES_FOLDER = "pictures"
PAGE_FILE = "summary.html"
UNREADABLE_FILE = "unreadable.csv"
EXCLUDED_FILE = "excluded.csv"
DETECTIONS_FILE = "detections.json"
BOXES_FILE = "detections.csv"
IMAGES_FILE = "images.csv"
IMAGE_LIST_FILE = "images.json"
RESULTS = (
    *(PICTURES_FOLDER, PAGE_FILE, UNREADABLE_FILE, EXCLUDED_FILE, DETECTIONS_FILE, BOXES_FILE, IMAGES_FILE),
    IMAGE_LIST_FILE,
)
Draw = Literal["none", "positives", "all"]


@dataclass(frozen=True)
class OutputSettings:
    """What is written of a prediction, and where."""

    folder: Path
    draw: Draw  # which images are drawn with their boxes
    names: Mapping[int, str]  # category id -> name
    threshold: float  # score threshold of boxes that are drawn and counted
    score_label: str  # name of the image score, the highest score of its boxes: "TB score"

    @property
    def score_column(self) -> str:
        """The column of the image score in tables: "tb_score"."""
        return self.score_label.lower().replace(" ", "_")

    def name_of(self, category: int) -> str:
        """The name of a category, or its id where it has none."""
        return self.names.get(category, str(category))


def require_prediction_folder(folder: Path) -> None:
    """Refuse a folder with files that no earlier prediction wrote but this one would overwrite."""
    present = [name for name in RESULTS if (folder / name).exists()]
    if present and not (folder / PROGRESS_FILE).is_file():
        raise UserError(
            f"{folder}: has {first_few(present)} and no {PROGRESS_FILE}, so it is not of an earlier prediction; choose "
            "another --output_dir"
        )
