"""Ranks and what they agree on, signals that ask to stop, and exit codes."""
