"""A trained network as a file for other engines: writing it, checking it, and an ONNX file as a detector."""

from models.export.check import BOX_BOUND, SCORE_BOUND
from models.export.exporter import BATCHES, ExportSettings, export_checkpoint
from models.export.onnx_detector import load_onnx_detector
from models.export.writers import WRITERS

__all__ = [
    "BATCHES",
    "BOX_BOUND",
    "SCORE_BOUND",
    "WRITERS",
    "ExportSettings",
    "export_checkpoint",
    "load_onnx_detector",
]
