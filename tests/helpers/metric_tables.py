"""Small tables of truth and detections, by hand and by chance."""

from dataclasses import replace

import numpy as np

from util.metrics.report.protocols import MatchedTables, compute_metrics
from util.metrics.tables import Detections, GroundTruth

NAMES = {1: "red", 2: "green", 3: "blue"}


def truth_of(images, rows):
    """rows: (image, label, (x1, y1, x2, y2)), or with True at the end for a crowd."""
    boxes = np.array([r[2] for r in rows], dtype=float).reshape(-1, 4)
    return GroundTruth(
        images=tuple(images),
        image_id=np.array([r[0] for r in rows], dtype=np.int64),
        label=np.array([r[1] for r in rows], dtype=np.int64),
        xyxy=boxes,
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        is_crowd=np.array([len(r) > 3 for r in rows], dtype=bool),
        names=NAMES,
        sizes=dict.fromkeys(images, (512, 512)),
        files={i: f"{i}.png" for i in images},
    )


def found_of(images, rows):
    """rows: (image, label, (x1, y1, x2, y2), score)."""
    boxes = np.array([r[2] for r in rows], dtype=float).reshape(-1, 4)
    image_id, label, score = (np.array([r[c] for r in rows]) for c in (0, 1, 3))
    return Detections(tuple(images), image_id.astype(np.int64), label.astype(np.int64), boxes, score.astype(float))


def random_tables(seed, ties=False):
    """A few images with boxes, crowds, near hits and false alarms; some images and perhaps a class without any."""
    rng = np.random.default_rng(seed)
    images = tuple(int(i) for i in rng.permutation(30)[: rng.integers(1, 8)])  # id 0 may be among them
    there, said = [], []
    for image in images:
        for _ in range(rng.integers(0, 5)):
            corner, size = rng.uniform(0, 300, 2), rng.uniform(10, 160, 2)
            box = np.concatenate([corner, corner + size])
            label = int(rng.integers(1, 3))
            there.append((image, label, box, True) if rng.random() < 0.2 else (image, label, box))
            for _ in range(rng.integers(0, 4)):
                near = box + rng.normal(0, 0.05, 4) * np.tile(size, 2)
                said.append((image, label if rng.random() < 0.8 else 3, near, rng.random()))
        for _ in range(rng.integers(0, 130) if rng.random() < 0.3 else 2):
            corner = rng.uniform(0, 300, 2)
            said.append((image, int(rng.integers(1, 4)), [*corner, *(corner + rng.uniform(5, 200, 2))], rng.random()))
    found = found_of(images, said)
    truth = truth_of(images, there)
    truth = replace(truth, area=truth.area * rng.uniform(0.3, 1, len(truth)))  # as if from a mask
    return truth, replace(found, score=found.score.round(1)) if ties else found


def permuted(truth, found, seed):
    """The same tables with images and rows in another order."""
    rng = np.random.default_rng(seed)
    images = tuple(rng.permutation(truth.images).tolist())
    p, q = rng.permutation(len(truth)), rng.permutation(len(found))
    columns = {c: getattr(truth, c)[p] for c in ("image_id", "label", "xyxy", "area", "is_crowd")}
    other = replace(truth, images=images, **columns)
    return other, Detections(images, found.image_id[q], found.label[q], found.xyxy[q], found.score[q])


def more(found, *rows):
    """The table with rows (image, label, box, score) at its end."""
    new = found_of(sorted({*found.images, *(r[0] for r in rows)}), rows)
    columns = [np.concatenate([getattr(found, c), getattr(new, c)]) for c in ("image_id", "label", "xyxy", "score")]
    images = found.images + tuple(i for i in new.images if i not in found.images)
    return Detections(images, *columns)


def repeated(truth, found, counts):
    """Tables in which image i occurs counts[i] times, each time as an image of its own, next to each other."""
    new = {}
    for place, (image, n) in enumerate(zip(sorted(truth.images), counts, strict=True)):
        new[image] = [1000 * place + k for k in range(n)]
    images = tuple(i for copies in new.values() for i in copies)

    def rows(table, columns):
        pairs = [(r, c) for r, i in enumerate(table.image_id.tolist()) for c in new[i]]
        index = np.array([r for r, _ in pairs], dtype=int)
        ids = np.array([c for _, c in pairs], dtype=np.int64)
        return {"image_id": ids, **{c: getattr(table, c)[index] for c in columns}}

    there = rows(truth, ("label", "xyxy", "area", "is_crowd"))
    facts = {"sizes": dict.fromkeys(images, (512, 512)), "files": {i: f"{i}.png" for i in images}}
    said = rows(found, ("label", "xyxy", "score"))
    return replace(truth, images=images, **there, **facts), replace(found, images=images, **said)


def report(truth, found, *, kinds=None, threshold=None, draws=0, seed=0):
    """The metrics of two tables."""
    return compute_metrics(MatchedTables(truth, found, kinds or {}, threshold), draws=draws, seed=seed)
