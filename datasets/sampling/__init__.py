"""Which images an epoch shows, in which order, and how they are shared among ranks."""
