"""A prediction from a list of images to a folder of results; a second call resumes an interrupted one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from util.base.console import Progress, echo
from util.base.csv_text import csv_lines
from util.base.files import write_atomically
from util.base.folder_lock import lock_folder
from util.predict.detect_each import ImageDetector
from util.predict.inputs import ImageInput
from util.predict.loop import detect_all
from util.predict.outputs import DETECTIONS_FILE, IMAGES_FILE, PAGE_FILE, UNREADABLE_FILE, OutputSettings
from util.predict.page.write import PageHeader, write_page
from util.predict.results import ImageResult, ResultFile
from util.predict.survey import Survey
from util.predict.tables import write_tables


def predict_images(
    detector: ImageDetector,
    survey: Survey,
    ids: Mapping[str, int],
    unreadable: list[tuple[str, str]],
    output: OutputSettings,
    *,
    settings: Mapping[str, Any],
    title: str,
    description: Mapping[str, str],
    device: torch.device,
    batch_size: int | None,
    num_threads: int,
) -> list[tuple[str, str]]:
    """Detect on images and write all results; (file, reason) of those that cannot be read.

    Args:
        detector: what detects.
        survey: the images, from `survey_images`.
        ids: image id by name.
        unreadable: (file, reason) of inputs that could not be listed.
        output: what is written, and where.
        settings: plain values on which the detections depend; a folder of others is refused.
        title: of the page.
        description: more facts for the page, what -> which.
        device: of the detector.
        batch_size: images at once; None measures how many fit.
        num_threads: that read and draw.

    Raises:
        UserError: the folder belongs to a prediction with other settings, or another process writes there.
        WriteError: the disk is full or the folder cannot be written.
        Exception: what the network raises, where it fails on every image or does not work any more.
    """
    images = survey.images
    with lock_folder(output.folder, "prediction"):
        results = ResultFile(output.folder, settings)
        todo = [image for image in images if not _is_done(image, results)]
        num_done = len(images) - len(todo)
        if num_done:
            echo(f"{num_done} of {len(images)} images are done already")
        progress = Progress("predicting", len(images), "images", done=num_done)
        failed = detect_all(
            detector,
            todo,
            results,
            output,
            device=device,
            batch_size=batch_size,
            num_threads=num_threads,
            after_images=progress.advance,
        )
        progress.close()
        path = {image.name: image.where for image in images}
        unreadable = unreadable + [(path.pop(name), reason) for name, reason in failed]
        _write_results(output, results, {name: ids[name] for name in path}, title, description, unreadable, survey)
    return unreadable


def _is_done(image: ImageInput, results: ResultFile) -> bool:
    """Whether an earlier call has predicted the image as it is now."""
    try:
        return (image.name, image.stamp) in results
    except OSError:  # reading it will report that
        return False


def _write_results(
    output: OutputSettings,
    results: ResultFile,
    ids: Mapping[str, int],
    title: str,
    description: Mapping[str, str],
    unreadable: list[tuple[str, str]],
    survey: Survey,
) -> None:
    def with_ids() -> Iterator[tuple[int, ImageResult]]:
        return ((ids[result.name], result) for result in results.read(list(ids)))

    write_tables(output, with_ids, survey)
    text = "".join(csv_lines(("file", "reason"), unreadable))
    path = output.folder / UNREADABLE_FILE
    write_atomically(path, lambda file: file.write(text.encode("utf-8", errors="backslashreplace")))
    scores = {result.name: result.score for _, result in with_ids()}
    by_score = sorted(scores, key=lambda name: (scores[name] is None, -(scores[name] or 0.0), name))
    num_positive = sum(score is not None and score >= output.threshold for score in scores.values())
    facts = {
        "images": f"{len(scores)}, of which {num_positive} have a box",
        "score threshold": f"{output.threshold:.4g}",
        **description,
        **({"16-bit images": survey.depth.summary} if survey.depth.summary else {}),
        **({"orientation": survey.turned} if survey.turned else {}),
        "all values": f"{DETECTIONS_FILE}, {IMAGES_FILE}",
    }
    page = output.folder / PAGE_FILE
    excluded = [(image.file, image.reason) for image in survey.excluded]
    write_page(output, PageHeader(title, facts, unreadable, excluded), results.read(by_score))
    echo(f"{len(scores)} images, {num_positive} with a box of score {output.threshold:.4g} or more: {page}")
