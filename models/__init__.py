"""The network: images to boxes, boxes to losses, and a trained one ready for use."""

from models.backbones.weights import load_backbone_weights
from models.build import build_model, check_model, speed_up
from models.inference.load import build_model_with_weights, load_detector
from models.ops.backends import choose_attention

__all__ = [
    "build_model",
    "build_model_with_weights",
    "check_model",
    "choose_attention",
    "load_backbone_weights",
    "load_detector",
    "speed_up",
]
