"""Class skill: the class loss relative to that of the best constant predictor, comparable between recipes.

`loss_ce` depends on alpha, gamma, the number of queries and the share of images with boxes. The **class skill** is
1 - loss_ce / (loss_ce of the best constant predictor for the same targets): 1 is perfect, 0 is what a
predictor reaches that ignores the image, and below 0 is worse than that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.optimize import minimize_scalar


@dataclass(frozen=True)
class FocalSettings:
    """Parameters of the class loss."""

    alpha: float
    gamma: float
    num_queries: int
    is_focal: bool = True  # False: another loss, without a class skill


def best_constant_loss(positives: Iterable[float], slots: float, focal: FocalSettings) -> float:
    """Compute the least focal loss of scores that are the same for every image and query, one score per class.

    Args:
        positives: per class, the sum over optimizer steps of (boxes of the class / denominator of the step).
        slots: the sum over steps of (images x queries / denominator of the step).
        focal: alpha and gamma.

    Returns:
        in the units of the sum over the same steps of `loss_ce`. The loss is 0 for a class without boxes (best score
        0) and for one whose boxes fill every slot (best score 1), and for all classes with alpha 0 or 1.
    """
    if not 0 < focal.alpha < 1:
        return 0.0
    return sum((_least_loss(p, slots - p, focal) for p in positives if 0 < p < slots), 0.0)


def class_skill(loss_ce: float, best_constant: float | None) -> float | None:
    """Return 1 - loss_ce / best_constant; None without a constant to compare with (no box, alpha 0 or 1, not focal)."""
    return 1.0 - loss_ce / best_constant if best_constant else None


def _least_loss(positives: float, negatives: float, focal: FocalSettings) -> float:
    """Minimise over the score p alpha P (1-p)^gamma (-log p) + (1-alpha) N p^gamma (-log (1-p))."""

    def loss(logit: float) -> float:
        log_p = -math.log1p(math.exp(-logit))
        log_q = -math.log1p(math.exp(logit))
        right = focal.alpha * positives * math.exp(focal.gamma * log_q) * -log_p
        return right + (1 - focal.alpha) * negatives * math.exp(focal.gamma * log_p) * -log_q

    return float(minimize_scalar(loss, bounds=(-40.0, 40.0), method="bounded", options={"xatol": 1e-6}).fun)
