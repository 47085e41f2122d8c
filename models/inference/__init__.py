"""A trained network, loaded and ready for use."""

from models.inference.attention_maps import DetectionTrace, trace_detection
from models.inference.detector import Detector, TrainedNetwork, View
from models.inference.load import MERGE_IOU, LoadedNetwork, build_network

__all__ = [
    "MERGE_IOU",
    "DetectionTrace",
    "Detector",
    "LoadedNetwork",
    "TrainedNetwork",
    "View",
    "build_network",
    "trace_detection",
]
