"""What a detector is worth: pure functions of truth and detections."""
