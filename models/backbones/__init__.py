"""Backbones under their official parameter names, and their pretrained weights."""
