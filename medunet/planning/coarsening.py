"""Coarser voxels where a budget is too small to show the dataset often enough at the dataset's own spacing."""

from __future__ import annotations

import math

import numpy as np

from medunet.planning.fingerprint import Fingerprint
from medunet.planning.spacing import compute_median_size
from medunet.volume import Array, Spacing

MIN_PASSES = 20
"""Times that a budget should be able to show every voxel; below that, coarser voxels are worth more."""
MAX_COARSENING = 2.0
"""Largest factor by which a budget may coarsen an axis."""
MIN_LABEL_DIAMETER = 6
"""Voxels across the smallest label (a ball of its volume) that coarsening must leave."""
_STEP = 1.03


def coarsen_spacing(spacing: Spacing, fingerprint: Fingerprint, total_voxels: float) -> tuple[Spacing, str]:
    """Grow the finest axes until the budget shows every voxel 20 times, twice as coarse at most.

    Args:
        spacing: What the dataset suggests, mm.
        fingerprint: Of the training cases.
        total_voxels: Voxels that the whole budget can show the network.

    Returns:
        The spacing, and the reason; an empty reason where nothing changed.
    """
    mm, limit = np.array(spacing), _limit_coarsening(spacing, fingerprint)

    def count_passes() -> float:
        voxels = math.prod(compute_median_size(fingerprint.spacings, fingerprint.body_shapes, _as_spacing(mm)))
        return total_voxels / max(1.0, voxels * fingerprint.num_cases)

    before = count_passes()
    while count_passes() < MIN_PASSES and (mm < limit - 1e-6).any():
        # The finest axes first: through-plane spacing is usually the coarser one already.
        growable = mm < limit - 1e-6
        grows = growable & (mm < mm[growable].min() * _STEP)
        mm[grows] = np.minimum(mm[grows] * _STEP, limit[grows])
    if not (mm > np.array(spacing)).any():
        return spacing, ""
    return _as_spacing(mm), (
        f", coarsened from {' x '.join(f'{n:.4g}' for n in spacing)} mm because the budget shows every voxel "
        f"{before:.1f} times and {MIN_PASSES} are wanted; now {count_passes():.1f} times"
    )


def _limit_coarsening(spacing: Spacing, fingerprint: Fingerprint) -> Array:
    """The coarsest spacing that a budget may lead to, mm per axis; never finer than it is."""
    smallest_ml = min(fingerprint.label_volumes_ml.values())
    diameter_mm = (6000 * smallest_ml / math.pi) ** (1 / 3)
    limit: Array = np.clip(diameter_mm / MIN_LABEL_DIAMETER, np.array(spacing), MAX_COARSENING * np.array(spacing))
    return limit


def _as_spacing(mm: Array) -> Spacing:
    i, j, k = mm.tolist()
    return i, j, k
