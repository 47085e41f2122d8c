"""Names of the files that a prediction writes into its output folder."""

from __future__ import annotations

PROGRESS_FILE = "progress.jsonl"

PICTURES_FOLDER = "pictures"
