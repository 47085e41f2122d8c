"""The criterion: matching, class losses, box losses, and the events that are logged."""
