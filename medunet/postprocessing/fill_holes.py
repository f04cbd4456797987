"""Cavities of a mask: what it encloses, in 3D or slice by slice."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import cc3d
import numpy as np

from medunet.volume import Array

_CONNECTIVITY: Final = 6  # of what is outside, where the mask itself holds together by corners


def fill_holes(mask: Array, *, flat_axes: Collection[int] = ()) -> Array:
    """Fill what cannot be reached from outside through faces of voxels.

    Args:
        mask: ``(I, J, K)`` bool; beyond its borders is outside.
        flat_axes: Axes along which nothing is outside: the third axis of a picture, or the axis of slices, of which the
            mask then holds one.

    Returns:
        ``(I, J, K)`` bool.

    Example:
        >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)[:, :, None]
        >>> int(fill_holes(ring).sum()), int(fill_holes(ring, flat_axes=[2]).sum())
        (8, 9)
    """
    margins = [(0, 0) if axis in flat_axes else (1, 1) for axis in range(3)]
    if margins == [(0, 0)] * 3:
        return mask
    background = np.pad(~mask, margins, constant_values=True)
    parts = cc3d.connected_components(background.astype(np.uint8), connectivity=_CONNECTIVITY)
    inside = tuple(slice(low, -1 if high else None) for low, high in margins)
    filled: Array = parts[inside] != parts[0, 0, 0]  # the corner is outside, as an axis was widened
    return filled


def fill_holes_in_slices(mask: Array, axis: int, *, flat_axes: Collection[int] = ()) -> Array:
    """Fill what is enclosed within a slice, slice by slice.

    Args:
        mask: ``(I, J, K)`` bool.
        axis: Across the slices.
        flat_axes: As for `fill_holes`.
    """
    slices = [
        fill_holes(np.take(mask, [place], axis=axis), flat_axes={axis, *flat_axes}) for place in range(mask.shape[axis])
    ]
    return np.concatenate(slices, axis=axis)
