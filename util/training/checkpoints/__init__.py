"""Checkpoints: the file and its checks, loading weights, and the choice of the start of a run."""
