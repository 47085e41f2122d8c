"""Checkpoints: the file, what of it is believed, weights that fit, and where a run starts."""
