"""Factors around 1, drawn below and above it equally often."""

from __future__ import annotations

import numpy as np

from medunet.augmentation.policy import Range
from medunet.volume import Array


def sample_factors(rng: np.random.Generator, bounds: Range, number: int) -> Array:
    """Half of the factors below 1 and half above, each half uniform, as nnU-Net draws contrast and gamma.

    Args:
        rng: Decides; the same numbers are drawn from it whatever the bounds.
        bounds: Least and largest factor; where both lie on one side of 1, all factors do.
        number: Of factors.
    """
    low, high = bounds
    is_below = rng.random(number) < 0.5
    share = rng.random(number)
    is_below = (is_below & (low < 1)) | (high <= 1)
    below = low + share * (min(high, 1.0) - low)
    above = max(low, 1.0) + share * (high - max(low, 1.0))
    return np.where(is_below, below, above)
