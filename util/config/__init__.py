"""The schema of all knobs, the rules between them, and how a config file is read. Needs no torch."""
