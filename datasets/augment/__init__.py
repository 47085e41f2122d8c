"""Augmentation: geometry, grey values and mixing of images."""
