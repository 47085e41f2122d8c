"""Errors, files, text, seeds, processes and the console. Needs no torch, but for `seed`."""
