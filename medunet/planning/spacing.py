"""The voxel size that a network sees, the order of the axes that follows from it, and the size of cases at it.

nnU-Net's rules (doi:10.1038/s41592-020-01008-z), which it applies to axes as SimpleITK gives them: K, J, I.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medunet.planning.fingerprint import Fingerprint
from medunet.volume import Array, Shape3, Spacing

ANISOTROPY = 3.0
"""An axis is coarse when its spacing is so many times that of the others, and its voxels so many times fewer."""
COARSE_PERCENTILE = 10.0
_AXES = "RAS"
_FILE_ORDER = (2, 1, 0)


def choose_spacing(fingerprint: Fingerprint) -> tuple[Spacing, str]:
    """The median of every axis; a coarse axis takes its 10th percentile.

    Where slices are far apart in most cases, the median would blur the few cases with thin slices and leave hardly a
    slice in the patch. The coarse axis never becomes finer than the others.
    """
    spacings = np.array(fingerprint.spacings)
    target = np.percentile(spacings, 50, axis=0)
    sizes = np.percentile(np.array(fingerprint.shapes), 50, axis=0)
    coarse, *others = order_axes(target.tolist())
    coarsest_other = float(target[others].max())
    reason = f"median of {fingerprint.num_cases} cases"
    is_coarse = target[coarse] > ANISOTROPY * coarsest_other and sizes[coarse] * ANISOTROPY < sizes[others].min()
    if is_coarse:
        median = target[coarse]
        target[coarse] = np.percentile(spacings[:, coarse], COARSE_PERCENTILE)
        if target[coarse] < coarsest_other:
            target[coarse] = coarsest_other + 1e-5  # nnU-Net's hair keeps it the coarsest axis
        reason += (
            f"; axis {_AXES[coarse]} ({median:.4g} mm) is more than {ANISOTROPY:g} times coarser and shorter than the "
            f"others: its {COARSE_PERCENTILE:g}th percentile, {target[coarse]:.4g} mm"
        )
    i, j, k = target.tolist()
    return (i, j, k), reason


def order_axes(spacing: Sequence[float]) -> tuple[int, int, int]:
    """Axes in nnU-Net's order: the coarsest, then the others as they lie in a file.

    Among equals the last axis counts as the coarsest, so that slices of isotropic cases are axial.

    Example:
        >>> order_axes((1.0, 3.0, 1.0)), order_axes((1.0, 1.0, 1.0))
        ((1, 2, 0), (2, 1, 0))
    """
    coarsest = max(_FILE_ORDER, key=lambda axis: spacing[axis])
    second, third = (axis for axis in _FILE_ORDER if axis != coarsest)
    return coarsest, second, third


def to_ras(values: tuple[int, ...], axes: tuple[int, ...]) -> Shape3:
    """Numbers of axes in nnU-Net's order as numbers of R, A and S; 1 for the axis across slices.

    Example:
        >>> to_ras((20, 320, 256), (2, 1, 0)), to_ras((320, 256), (1, 0))
        ((256, 320, 20), (256, 320, 1))
    """
    placed = [1, 1, 1]
    for axis, value in zip(axes, values, strict=True):
        placed[axis] = value
    i, j, k = placed
    return i, j, k


def compute_median_size(spacings: Sequence[Spacing], shapes: Sequence[Shape3], spacing: Spacing) -> Array:
    """Median voxels per axis, ``(3,)``, of cases resampled to a spacing; halves occur when the number of cases is even."""
    resampled = np.rint(np.array(spacings) / np.array(spacing) * np.array(shapes))
    median: Array = np.median(resampled, axis=0)
    return median
