"""The network: images to boxes, boxes to losses."""

from models.build import build_model, speed_up

__all__ = ["build_model", "speed_up"]
