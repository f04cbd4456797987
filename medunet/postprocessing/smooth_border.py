"""Smooth borders of a mask."""

from __future__ import annotations

from scipy.ndimage import gaussian_filter

from medunet.postprocessing.balls import compute_distance
from medunet.volume import Array, Spacing

TRUNCATE = 3.0
"""Standard deviations at which the Gaussian is cut."""


def smooth_border(mask: Array, spacing: Spacing, mm: float) -> Array:
    """The zero level of the signed distance to the border after a Gaussian.

    A flat border stays where it is, a ball of radius r shrinks by about mm²/r, and what is thinner than about mm vanishes.

    Args:
        mask: ``(I, J, K)`` bool; the border continues beyond those of the array as it reaches them.
        spacing: In mm.
        mm: Standard deviation of the Gaussian; where voxels are much longer, it does nothing along them.

    Returns:
        ``(I, J, K)`` bool; where there is no border, the mask.
    """
    if mask.all() or not mask.any():
        return mask
    distance = compute_distance(mask, spacing) - compute_distance(~mask, spacing)
    sigmas = [mm / length for length in spacing]
    smoothed: Array = gaussian_filter(distance, sigmas, mode="nearest", truncate=TRUNCATE) > 0
    return smoothed
