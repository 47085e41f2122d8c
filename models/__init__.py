"""The network: images to boxes, boxes to losses."""

from models.build import build_model

__all__ = ["build_model"]
