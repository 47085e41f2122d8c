"""Export a checkpoint: build the portable network, write the file, check it against PyTorch, and give it its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from models.backbones.build import BACKBONES, FIRST_STRIDE
from models.export.check import Agreement, compare, measure_speed, merge_agreements
from models.export.portable import ExportFacts, PortableDetector, PortableNetwork, PostProcessing, smallest_side
from models.export.writers import OPSET, SUFFIXES, WRITERS, Format, Runner, open_runner, require_packages
from models.inference import LoadedNetwork, TrainedNetwork, build_network
from util.base.errors import UserError
from util.config import as_options
from util.config.schema import PLAIN, ModelConfig
from util.detection.pixels import IMAGENET_MEAN, IMAGENET_STD, network_pixels, normalised
from util.training.checkpoints import checkpoint

CPU = torch.device("cpu")
PLAIN_OPTIONS = as_options(PLAIN)  # the exported network
REFERENCE_OPTIONS = as_options({"amp": PLAIN["amp"]})  # what it is compared with: as a CPU predicts, in full precision
BATCHES = (1, 4)
ROW = "{:8}{:>11}{:>7}{:>8}{:>11}{:>11}{:>12}{:>9}"
Log = Callable[[str], None]


@dataclass(frozen=True)
class ExportSettings:
    """What kind of file to write, and how to check it."""

    format: Format
    size: tuple[int | None, int | None] | None  # height and width; (None, None): any; None: a square by the config
    post_processing: PostProcessing
    image_source: str  # where the images of the check come from, for the log
    repeats: int  # timed runs for the table of speed; 0: no table


def export_checkpoint(
    path: Path, output: Path | None, settings: ExportSettings, images: Iterable[Image.Image], log: Log
) -> tuple[Path, ExportFacts, Agreement]:
    """Write and check a file; where the check fails, there is none.

    Args:
        path: the checkpoint.
        output: the file; None: beside the checkpoint, with the suffix of its kind.
        settings: kind of the file.
        images: RGB X-rays for the check; read after the first refusals.
        log: prints a line.

    Returns:
        the file's path, its metadata, and how far it is from PyTorch; not `is_good`: the file was removed.

    Raises:
        UserError: the file cannot be made.
    """
    require_packages(settings.format)
    output = output or path.with_suffix(SUFFIXES[settings.format])
    check_output(output, path)
    images = list(images)
    torch.manual_seed(0)
    content = checkpoint.load(path)
    plain = build_network(path, content, CPU, PLAIN_OPTIONS)
    facts = facts_of(plain, settings)
    smallest = smallest_side(plain.config.model.num_queries, strides(plain.config.model))
    check_size(facts, smallest)
    if settings.format == "torchscript":
        log("torchscript: PyTorch has deprecated it; a later PyTorch may not read the file. torch_export replaces it")
    unchecked = output.with_name(f"unchecked-{os.getpid()}-{output.name}")  # not that of another export
    try:
        log(f"exporting to {settings.format}, which may take minutes")
        WRITERS[settings.format](portable(plain.network, settings.post_processing), facts, smallest, unchecked)
        runner = open_runner(unchecked, settings.format, facts)
        reference = build_network(path, content, CPU, REFERENCE_OPTIONS).network
        agreement = check(runner, facts, reference, settings, images, smallest, log)
        if agreement.is_good:
            os.replace(unchecked, output)
    finally:
        unchecked.unlink(missing_ok=True)
    return output, facts, agreement


def check_output(output: Path, source: Path) -> None:
    """Refuse a path that cannot be written, before the work begins."""
    if output.is_dir():
        raise UserError(f"{output}: is a folder; --output takes the name of a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: is the checkpoint itself; give another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output.parent}: cannot be made ({error.strerror}); choose another --output") from error
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"{output.parent}: cannot be written; choose another --output, or fix the permissions")


def facts_of(loaded: LoadedNetwork, settings: ExportSettings) -> ExportFacts:
    """The metadata of the file."""
    config = loaded.config
    view = loaded.view(config.data.data_eval_scale, is_flipped=False)
    height, width = settings.size or (view.scale, view.scale)
    scale = view.scale
    max_size = view.max_size
    if height is not None and width is not None:  # so that images are resized to the only size that the file takes
        scale = min(height, width)
        max_size = max(height, width, round(max_size * scale / view.scale))
    return ExportFacts(
        names=loaded.names,
        threshold=loaded.threshold,
        post_processing=settings.post_processing,
        num_select=config.eval.num_select,
        nms_iou_threshold=config.eval.nms_iou_threshold,
        category_ids=tuple(sorted(loaded.names)) if config.model.restrict_to_categories else None,
        scale=scale,
        max_size=max_size,
        height=height,
        width=width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        config=dict(vars(config.model)),
        opset=OPSET if settings.format == "onnx" else None,
    )


def strides(config: ModelConfig) -> list[int]:
    """Pixels of the input per cell, level by level."""
    first = FIRST_STRIDE * 2 ** config.return_interm_indices[0]
    return [first * 2**level for level in range(config.num_feature_levels)]


def check_size(facts: ExportFacts, smallest: int) -> None:
    """Refuse a size with fewer cells than queries, and any size where the backbone has to have one."""
    backbone = facts.config["backbone"]
    if facts.height is None or facts.width is None:
        if not BACKBONES[backbone].exports_any_size:
            raise UserError(f"--size dynamic: the backbone {backbone} takes a fixed size; give --size a number")
    elif min(facts.height, facts.width) < smallest:
        raise UserError(
            f"--size {facts.height}x{facts.width}: a network with {facts.config['num_queries']} queries takes sides of "
            f"at least {smallest} pixels"
        )


def portable(network: TrainedNetwork, post_processing: PostProcessing) -> PortableDetector | PortableNetwork:
    """The graph that is written."""
    if post_processing == "inside":
        return PortableDetector(network.model, network.postprocess).eval()
    return PortableNetwork(network.model, network.postprocess.image_gate).eval()


def check(
    runner: Runner,
    facts: ExportFacts,
    reference: TrainedNetwork,
    settings: ExportSettings,
    images: Sequence[Image.Image],
    smallest: int,
    log: Log,
) -> Agreement:
    """Compare the file with PyTorch on X-rays and on random numbers, and log the tables."""
    kind = f"{settings.format}, opset {facts.opset}" if facts.opset else settings.format
    log(
        f"{kind}; PyTorch {torch.__version__}, {torch.get_num_threads()} threads; images: {len(images)} of "
        f"{settings.image_source}"
    )
    log(ROW.format("input", "size", "batch", "images", "box, px", "score", "same cells", "paired"))
    rows = []
    sizes = check_sizes(facts, smallest)
    for height, width in sizes:
        inputs = {"x-rays": stack(images, height, width), "random": torch.randn(2 * max(BATCHES), 3, height, width)}
        for name, tensor in inputs.items():
            for batch in BATCHES:
                parts = tensor[: len(tensor) // batch * batch].split(batch)
                row = merge_agreements(
                    compare(runner, facts.post_processing, reference.model, reference.postprocess, part)
                    for part in parts
                )
                rows.append(row)
                values = [row.num_images, f"{row.box:.1e}", f"{row.score:.1e}", row.num_same_choice]
                paired = f"{100 * row.num_paired / row.num_detections:.1f} %"
                log(ROW.format(name, f"{height}x{width}", batch, *values, paired))
    agreement = merge_agreements(rows)
    if agreement.is_good and settings.repeats:
        log_speed(runner, reference, sizes[0], settings.repeats, log)
    return agreement


def check_sizes(facts: ExportFacts, smallest: int) -> list[tuple[int, int]]:
    """(height, width) of the images of the check; of any size: a square, and one that no stride divides."""
    if facts.height is not None and facts.width is not None:
        return [(facts.height, facts.width)]
    side = max(facts.scale, smallest)
    return [(side, side), (max(3 * side // 4 + 5, smallest), side + 9)]


def stack(images: Sequence[Image.Image], height: int, width: int) -> Tensor:
    """[N, 3, height, width], normalised, each image stretched to that."""
    resized = [image.resize((width, height), Image.Resampling.BILINEAR) for image in images]
    no_padding = torch.zeros(len(resized), height, width, dtype=torch.bool)
    return normalised(torch.stack([network_pixels(image) for image in resized]), no_padding)


def log_speed(runner: Runner, reference: TrainedNetwork, sides: tuple[int, int], repeats: int, log: Log) -> None:
    """Log the CPU seconds per image of PyTorch and of the file."""
    log(
        f"\n{'batch':>5}{'PyTorch':>11}{'file':>11}   CPU seconds per image at {sides[0]}x{sides[1]}, medians of "
        f"{repeats}, alternately"
    )
    for batch in BATCHES:
        images = torch.randn(batch, 3, *sides)
        pytorch, file = measure_speed(runner, reference.model, images, repeats)
        log(f"{batch:>5}{pytorch:>11.3f}{file:>11.3f}   x {pytorch / file:.2f}")
