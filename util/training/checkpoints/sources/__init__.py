"""Checkpoints of DINO by other programs: how each names and arranges the tensors of the official network."""
