"""Opening and closing of a mask with a ball of a radius in mm, whatever the spacing.

A ball of voxels is a poor one where voxels are long; so it is never built. A voxel is within a dilated mask where its
distance to the mask is at most the radius, and within an eroded one where its distance to the background is more, by an
exact Euclidean distance transform (Cuisenaire 2006, https://doi.org/10.1016/j.imavis.2005.04.009). Both are those of the
ball of voxel centres, so opening and closing are idempotent. Beyond the borders of an array nothing is known: nothing is
eroded from there, so opening does not round what the field of view has cut; closing takes it for background, so it does not
fill the gap between a mask and a border.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import edt  # type: ignore[import-not-found]  # compiled, without type information
import numpy as np

from medunet.volume import Array, Spacing

_TOLERANCE = 1e-5  # distances are float32; a voxel at exactly the radius belongs to the ball


def erode(mask: Array, spacing: Spacing, mm: float) -> Array:
    """Keep voxels around which a ball lies within the mask.

    Args:
        mask: ``(I, J, K)`` bool.
        spacing: In mm.
        mm: Radius.
    """
    kept: Array = compute_distance(mask, spacing) > mm * (1 + _TOLERANCE)
    return kept


def dilate(mask: Array, spacing: Spacing, mm: float) -> Array:
    """Add voxels that lie within a ball around one of the mask; see `erode`.

    Example:
        >>> point = np.zeros((5, 5, 3), dtype=bool)
        >>> point[2, 2, 1] = True
        >>> dilate(point, (1.0, 1.0, 3.0), 2.0).sum(axis=(0, 1)).tolist()  # a disc of radius 2; the next slice is 3 mm away
        [0, 13, 0]
    """
    reached: Array = compute_distance(~mask, spacing) <= mm * (1 + _TOLERANCE)
    return reached


def open_mask(mask: Array, spacing: Spacing, mm: float) -> Array:
    """Keep what balls within the mask cover: erosion, then dilation; see `erode`."""
    return dilate(erode(mask, spacing, mm), spacing, mm)


def close_mask(mask: Array, spacing: Spacing, mm: float, *, flat_axes: Collection[int] = ()) -> Array:
    """Add what no ball outside of the mask covers: dilation, then erosion; see `erode`.

    Args:
        mask: ``(I, J, K)`` bool; what is added lies within the box of its voxels.
        spacing: In mm.
        mm: Radius.
        flat_axes: Along which there is nothing, such as the third axis of a picture: the ball is a disc.
    """
    margins = [0 if axis in flat_axes else math.ceil(mm / length) + 1 for axis, length in enumerate(spacing)]
    padded = np.pad(mask, [(margin, margin) for margin in margins])
    inside = tuple(slice(margin, margin + length) for margin, length in zip(margins, mask.shape, strict=True))
    closed: Array = erode(dilate(padded, spacing, mm), spacing, mm)[inside]
    return closed


def compute_distance(mask: Array, spacing: Spacing) -> Array:
    """Distance in mm from the centre of each voxel of a mask to the nearest one that is not in it.

    Args:
        mask: ``(I, J, K)`` bool.
        spacing: In mm.

    Returns:
        float32; 0 outside of the mask, infinite everywhere where all is mask.
    """
    distance: Array = edt.edt(np.ascontiguousarray(mask), anisotropy=spacing, black_border=False, parallel=1)
    return distance
