"""What is checked of data before a training."""
