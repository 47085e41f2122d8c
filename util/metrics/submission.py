"""Three class probabilities per image from the boxes of a detector, for challenges that ask for both.

A detector says how much an image looks like tuberculosis and nothing about healthy against sick. The rule here invents
nothing more: the order of p_tb is that of the highest box score s, p_tb is the largest of the three exactly where s
reaches the threshold t, and the rest is shared out evenly.

    p_tb = 0.33 s / t                               s < t
    p_tb = 0.34 + 0.66 (s - t) / (1 - t)            s >= t
    p_healthy = p_sick = (1 - p_tb) / 2
"""

import numpy as np
from numpy.typing import NDArray

NOT_CALLED, CALLED = 0.33, 0.34  # p_tb just below and at the threshold: one third is where it becomes the largest


def class_probabilities(score: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """[I] highest scores in [0, 1], -infinity where there is no box -> [I, 3]: healthy, sick, tuberculosis.

    Raises:
        ValueError: the threshold does not lie inside (0, 1), or a score is above 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold must lie between 0 and 1, got {threshold:g}")
    if score.max(initial=0.0) > 1:
        raise ValueError(f"scores must lie in [0, 1], the highest is {score.max():g}")
    score = np.maximum(score, 0.0)
    below = NOT_CALLED * score / threshold
    above = CALLED + (1 - CALLED) * (score - threshold) / (1 - threshold)
    tuberculosis = np.where(score < threshold, below, above)
    rest = (1 - tuberculosis) / 2
    return np.stack([rest, rest, tuberculosis], axis=1)
