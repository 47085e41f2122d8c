"""Synthetic chest X-rays with lesions, to try everything without real data."""
