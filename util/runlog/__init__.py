"""The log of a run: what is written, and how it is read back."""
