"""Batches, boxes and pixels as the network gets them, and the fusion of overlapping detections."""
