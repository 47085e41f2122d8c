"""The criterion: matching, class losses, box losses, and the event counts that are logged."""
