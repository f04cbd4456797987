"""Touching objects, divided where they are narrow: a watershed of the distance to the border (Beucher & Meyer 1993)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter

from medunet.errors import InputError
from medunet.postprocessing.balls import compute_distance, dilate
from medunet.postprocessing.parts import find_parts
from medunet.volume import Array, Spacing


def split_touching(mask: Array, spacing: Spacing, mm: float) -> Array:
    """Number the objects of a mask.

    An object is where the distance to the border is largest within a cube of ``mm`` to every side; from there it grows down to the
    border and to other objects.

    Args:
        mask: ``(I, J, K)`` bool.
        spacing: In mm.
        mm: Objects whose centres are nearer are one.

    Returns:
        ``(I, J, K)`` uint16, from 1; 0 outside of the mask.

    Raises:
        InputError: If ``mm`` is no positive number, or there are more objects than 65535.
    """
    from skimage.segmentation import watershed

    if not 0 < mm < np.inf:
        msg = f"The distance between objects is {mm} mm; expected a number above 0."
        raise InputError(msg)
    if not mask.any():
        return np.zeros(mask.shape, np.uint16)
    distance = _compute_depth(mask, spacing)
    peaks = mask & (distance >= maximum_filter(distance, [2 * int(mm / length) + 1 for length in spacing]))
    markers, sizes = find_parts(dilate(peaks, spacing, mm / 2).astype(np.uint8))
    if len(sizes) - 1 > np.iinfo(np.uint16).max:
        msg = f"There are {len(sizes) - 1} objects; expected at most 65535. Smooth the scan, or raise the distance between objects."
        raise InputError(msg)
    numbered: Array = watershed(
        -distance, np.where(peaks, markers, 0), mask=mask, connectivity=np.ones((3, 3, 3))
    ).astype(np.uint16)
    return numbered


def _compute_depth(mask: Array, spacing: Spacing) -> Array:
    """The distance to the border; the borders of the scan count too, but not along the third axis of a picture."""
    margins = [(0, 0) if length == 1 else (1, 1) for length in mask.shape]
    inside = tuple(slice(low, -1 if high else None) for low, high in margins)
    distance: Array = compute_distance(np.pad(mask, margins), spacing)[inside]
    return distance
