"""The network: images to boxes, boxes to losses, and a trained one ready for use."""

from models.build import build_model
from models.load import load_detector

__all__ = ["build_model", "load_detector"]
