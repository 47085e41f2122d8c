"""Annotation files and folder layouts, read as columns of numbers."""
