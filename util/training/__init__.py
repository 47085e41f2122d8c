"""The state of a training: optimizer, average, precision, run folder and evaluation."""
