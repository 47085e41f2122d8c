"""A list of detections from the strongest to the weakest, cut down to where something is found.

Precision, recall and sensitivity change at a hit only. So what is kept is one step per hit, and with each step the
false alarms since the one before, image by image. A bootstrap draw counts images several times or not at all:
its cumulated counts are two matrix products instead of a new sort.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Steps:
    """K steps over I images."""

    hits: csr_array  # [K, I] true boxes that each step finds
    alarms: csr_array  # [K, I] false alarms between the step before and this one

    def counts(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Hits and false alarms up to each step, both [K, D], when image i counts `weights[i, d]` times in draw d."""
        return np.cumsum(self.hits @ weights, axis=0), np.cumsum(self.alarms @ weights, axis=0)


def build_steps(step: NDArray[np.int64], is_hit: NDArray[np.bool_], image: NDArray[np.int64], shape: tuple) -> Steps:
    """Steps of `shape` (K, I) from rows [N]: the step at which each row counts, what it is, and its image's position.

    Rows of step K, those after the last hit, change nothing and are left out.
    """
    counts = step < shape[0]
    parts = [
        csr_array((np.ones(rows.sum()), (step[rows], image[rows])), shape=shape)  # repeated cells are summed
        for rows in (is_hit & counts, ~is_hit & counts)
    ]
    return Steps(*parts)
