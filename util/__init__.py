"""What would serve any detector: configuration, batches, distribution, metrics."""
