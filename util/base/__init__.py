"""Errors, files, text, seeds, processes and the console: what every other package stands on. Needs no torch, but for `seed`."""
