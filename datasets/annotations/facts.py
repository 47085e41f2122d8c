"""Facts of a split for the log and the report; the doctor compares them with what training sees."""

from typing import Any

import numpy as np

from datasets.annotations.split import Split
from util.config import Config
from util.metrics.report.file import count_boxes
from util.training.evaluation_folder import config_fingerprint


def split_facts(split: Split) -> dict[str, Any]:
    """Count images and boxes, also per category id; median sides of the boxes as shares of the image."""
    kept = ~split.is_crowd
    sizes = split.sizes[split.image_of_box[kept]]
    width = split.xywh[kept, 2] / sizes[:, 1]
    height = split.xywh[kept, 3] / sizes[:, 0]
    return {
        "list": split.name,
        **count_boxes(split.ground_truth()),
        "median_box_width": float(np.median(width)) if len(width) else None,
        "median_box_height": float(np.median(height)) if len(height) else None,
    }


def evaluated_source(split: Split, config: Config) -> dict[str, str]:
    """The evaluated data for the report: list, annotation file and image folder as given; the config."""
    files = {"annotation_file": str(split.annotation_file), "image_folder": str(split.image_dir)}
    return {"list": split.name, **files, "config": config_fingerprint(config)}
