"""The log of a run: its messages and rows, the metrics in them, and how they are read back."""
