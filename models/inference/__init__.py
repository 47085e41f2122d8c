"""A trained network, loaded and ready for use."""
