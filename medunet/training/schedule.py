"""The learning rate over the budget."""

from __future__ import annotations

import math

from medunet.planning.plan import OptimizerPlan

WARM_UP = 0.02
_POLY_POWER = 0.9


def compute_learning_rate(plan: OptimizerPlan, progress: float) -> float:
    """The learning rate of a plan's schedule.

    Args:
        plan: Highest rate and schedule.
        progress: Share of the budget that is used, 0 to 1.
    """
    compute = compute_cosine_share if plan.schedule == "cosine" else compute_poly_share
    return plan.learning_rate * compute(progress)


def compute_cosine_share(progress: float) -> float:
    """Linear warm-up over the first 2 % of the budget, then half a cosine to zero (Loshchilov 2017, arXiv:1608.03983).

    Example:
        >>> [round(compute_cosine_share(progress), 3) for progress in (0.0, 0.01, 0.02, 0.51, 1.0)]
        [0.01, 0.505, 1.0, 0.5, 0.0]
    """
    if progress < WARM_UP:
        return 0.01 + 0.99 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def compute_poly_share(progress: float) -> float:
    """nnU-Net's ``(1 - progress) ** 0.9``, without warm-up; nnU-Net changes it once per epoch, here it falls at each step.

    Example:
        >>> [round(compute_poly_share(progress), 3) for progress in (0.0, 0.5, 0.999, 1.0)]
        [1.0, 0.536, 0.002, 0.0]
    """
    return float((1 - progress) ** _POLY_POWER)
