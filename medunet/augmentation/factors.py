"""Factors around 1, drawn below and above it equally often."""

from __future__ import annotations

import numpy as np

from medunet.augmentation.policy import Range


def sample_factors(rng: np.random.Generator, bounds: Range, number: int) -> tuple[float, ...]:
    """Half of the factors below 1 and half above, each half uniform, as nnU-Net draws contrast and gamma.

    Args:
        rng: Decides; the same numbers are drawn from it whatever the bounds.
        bounds: Least and largest factor; where both lie on one side of 1, all factors do.
        number: Of factors.
    """
    low, high = bounds
    highest_below, lowest_above = min(high, 1.0), max(low, 1.0)
    sides, shares = rng.random(number).tolist(), rng.random(number).tolist()
    return tuple(
        low + share * (highest_below - low)
        if (side < 0.5 and low < 1) or high <= 1
        else lowest_above + share * (high - lowest_above)
        for side, share in zip(sides, shares, strict=True)
    )
