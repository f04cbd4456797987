"""The learning rate over the budget."""

from __future__ import annotations

import math

WARM_UP = 0.02


def compute_learning_rate(highest: float, progress: float) -> float:
    """Linear warm-up over the first 2 % of the budget, then half a cosine to zero (Loshchilov 2017, arXiv:1608.03983).

    Args:
        highest: Reached after the warm-up.
        progress: Share of the budget that is used, 0 to 1.

    Example:
        >>> [round(compute_learning_rate(1.0, progress), 3) for progress in (0.0, 0.01, 0.02, 0.51, 1.0)]
        [0.01, 0.505, 1.0, 0.5, 0.0]
    """
    if progress < WARM_UP:
        return highest * (0.01 + 0.99 * progress / WARM_UP)
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
