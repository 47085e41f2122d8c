"""Plots of runs, evaluations and detections by matplotlib. Needs no torch."""
