"""What the doctor looks for: each check is a pure function of a history that returns one cause, or None."""
