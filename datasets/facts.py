"""A split in a few numbers, for the log: what the doctor compares with what training then sees."""

from typing import Any

import numpy as np

from datasets.split import Split


def split_facts(split: Split) -> dict[str, Any]:
    """Images, images with boxes, boxes; boxes per category id; median sides of the boxes as shares of the image."""
    kept = ~split.is_crowd
    labels, sizes = split.labels[kept], split.sizes[split.image_of_box[kept]]
    width, height = split.xywh[kept, 2] / sizes[:, 1], split.xywh[kept, 3] / sizes[:, 0]
    return {
        "list": split.name,
        "images": split.num_images,
        "images_with_boxes": len(np.unique(split.image_of_box[kept])),
        "boxes": len(labels),
        "boxes_by_category": {str(c): int((labels == c).sum()) for c in split.category_ids},
        "median_box_width": float(np.median(width)) if len(width) else None,
        "median_box_height": float(np.median(height)) if len(height) else None,
    }
