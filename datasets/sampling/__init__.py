"""Sampling orders of epochs, and samplers that distribute them over ranks."""
