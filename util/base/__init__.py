"""Errors, files, text, seeds, processes and the console. Only `seed` needs torch."""
