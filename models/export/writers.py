"""Files of an exported network: writing them, and running what was written.

Everything is written by `torch.export` but TorchScript, which PyTorch has deprecated in favour of it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from models.export.onnx_detector import OnnxSession
from models.export.portable import FACTS_KEY, OUTPUTS, ExportFacts
from models.export.seal import BLANK, seal
from util.base.errors import MissingPackage, UserError

Format = Literal["onnx", "torchscript", "torch_export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "torch_export": ".pt2"}
PACKAGES: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
OPSET = 20  # of ONNX: the first in which GridSample is what PyTorch calls it
LARGEST_SIDE = 8192
LARGEST_BATCH = 4096
LARGEST_ONNX = 2**31 - 2**26  # bytes of weights; protobuf ends at 2 GB, and the graph takes some of it
EXAMPLE_BATCH = 2  # an example of one image would fix the batch size to one
# images [B, 3, H, W] and the sizes of their files [B, 2] -> the outputs of the file, `models.export.portable.OUTPUTS`
Runner = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
EXPORTERS = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")  # whose log is silenced


def require_packages(kind: Format) -> None:
    """Refuse a kind of file whose packages are not installed, before the work begins.

    Raises:
        MissingPackage: naming them.
    """
    missing = [name for name in PACKAGES.get(kind, ()) if find_spec(name) is None]
    if missing:
        raise MissingPackage(
            f"--format {kind} needs packages that are not installed: pip install {' '.join(missing)}, or all "
            "of requirements-extra.txt"
        )


def write_onnx(network: nn.Module, facts: ExportFacts, smallest: int, path: Path) -> None:
    """Write an ONNX file that stands alone: weights and facts are inside, and a checksum of everything.

    Args:
        network: a PortableNetwork or PortableDetector, in evaluation mode.
        facts: the metadata.
        smallest: the smallest side that an image of any size may have, pixels.
        path: the file.

    Raises:
        UserError: an operation of the network has no counterpart in ONNX, or the weights do not fit into a file.
    """
    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if num_bytes > LARGEST_ONNX:
        raise UserError(
            f"the weights are {num_bytes / 2**30:.1f} GB, an ONNX file that stands alone holds less than 2; take "
            "--format torch_export"
        )
    program = _program(network, facts, smallest)
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                input_names=list(inputs_of(facts)),
                output_names=list(OUTPUTS[facts.post_processing]),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"PyTorch cannot write this network as ONNX: {str(error).strip().splitlines()[0]}") from error
    assert exported is not None, "the exporter for dynamo=True returns a program"
    exported.model.metadata_props[FACTS_KEY] = replace(facts, seal=BLANK).to_json()
    exported.save(path, external_data=False)
    seal(path)


def write_torch_export(network: nn.Module, facts: ExportFacts, smallest: int, path: Path) -> None:
    """Write a .pt2 file of `torch.export`; the facts are an extra file inside. Arguments as `write_onnx`."""
    with _quiet(), path.open("wb") as file:
        torch.export.save(_program(network, facts, smallest), file, extra_files={FACTS_KEY: facts.to_json()})


def write_torchscript(network: nn.Module, facts: ExportFacts, smallest: int, path: Path) -> None:
    """Write a TorchScript file, traced; the facts are an extra file inside. Arguments as `write_onnx`."""
    with _quiet(), torch.no_grad():
        traced = torch.jit.trace(network, tuple(_example(facts, smallest).values()), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={FACTS_KEY: facts.to_json()})


WRITERS = {"onnx": write_onnx, "torchscript": write_torchscript, "torch_export": write_torch_export}


def open_runner(path: Path, kind: Format, facts: ExportFacts) -> Runner:
    """Load a file for the CPU."""
    if kind == "onnx":
        return OnnxSession(path).run
    with _quiet():
        if kind == "torchscript":
            graph = torch.jit.load(str(path), map_location="cpu").eval()
        else:
            graph = torch.export.load(str(path)).module()
    num_inputs = len(inputs_of(facts))

    def run(images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), _quiet():
            return tuple(graph(*(images, sizes)[:num_inputs]))

    return run


def inputs_of(facts: ExportFacts) -> tuple[str, ...]:
    """Names of the inputs of a file."""
    return ("images", "sizes") if facts.post_processing == "inside" else ("images",)


def _program(network: nn.Module, facts: ExportFacts, smallest: int) -> torch.export.ExportedProgram:
    """The graph for any batch, and any size where the facts name none."""
    batch = Dim("batch", min=1, max=LARGEST_BATCH)
    sides = {name: Dim(name, min=smallest, max=LARGEST_SIDE) for name in ("height", "width")}
    dims = {"images": {0: batch}, "sizes": {0: batch}}
    if facts.height is None:
        dims["images"] |= {2: sides["height"], 3: sides["width"]}
    example = _example(facts, smallest)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(
                network, tuple(example.values()), dynamic_shapes={name: dims[name] for name in example}, strict=False
            )
    except torch._dynamo.exc.UserError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"this network cannot be exported for any size: {reason}; give --size a number") from error


def _example(facts: ExportFacts, smallest: int) -> dict[str, Tensor]:
    """Inputs by name."""
    generator = torch.Generator().manual_seed(0)
    height = facts.height or smallest + 32
    width = facts.width or smallest + 64
    images = torch.randn(EXAMPLE_BATCH, 3, height, width, generator=generator)
    inputs = {"images": images, "sizes": torch.tensor([[height, width]] * EXAMPLE_BATCH)}
    return {name: inputs[name] for name in inputs_of(facts)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' log and warnings; failures are raised."""
    loggers = [logging.getLogger(name) for name in EXPORTERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
