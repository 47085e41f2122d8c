"""The doctor: what a log says about why a training does not learn. Needs no torch, but for `checkup`."""
