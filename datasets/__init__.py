"""From annotation and image files to batches."""
