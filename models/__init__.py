"""The network: images to boxes, boxes to losses, and a trained one ready for use."""

from models.build import build_model, speed_up
from models.inference.load import load_detector

__all__ = ["build_model", "load_detector", "speed_up"]
