"""Names of the files that a prediction writes into its output folder."""

from __future__ import annotations

FILE = "progress.jsonl"

PICTURES = "pictures"
