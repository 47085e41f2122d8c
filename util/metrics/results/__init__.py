"""Results files of any tool, read as detections on the images of a ground truth file."""
