"""The network: images to boxes, boxes to losses, and a trained one ready for use."""

from models.build import build_model, speed_up
from models.inference.load import load_detector
from models.ops.backends import choose as choose_attention

__all__ = ["build_model", "choose_attention", "load_detector", "speed_up"]
