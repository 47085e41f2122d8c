"""Logs that the official code and its forks have written, read as histories."""
