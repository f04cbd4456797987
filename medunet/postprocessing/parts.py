"""Connected parts of a mask: voxels that touch by a face, an edge or a corner belong together (26 neighbours)."""

from __future__ import annotations

from typing import Final

import cc3d
import numpy as np

from medunet.volume import Array

_CONNECTIVITY: Final = 26


def find_parts(indices: Array) -> tuple[Array, Array]:
    """Split every structure of an index map into its connected parts.

    Args:
        indices: Whole numbers ``(I, J, K)``, 0 is background; structures do not grow together where they touch.

    Returns:
        The number of its part for every voxel, from 1, 0 for background; and the voxels of each part, the background
        first.

    Example:
        >>> parts, sizes = find_parts(np.array([[[1, 1, 0, 1, 2]]], dtype=np.uint8))
        >>> parts.tolist(), sizes.tolist()
        ([[[1, 1, 0, 2, 3]]], [1, 2, 1, 1])
    """
    parts, num_parts = cc3d.connected_components(indices, connectivity=_CONNECTIVITY, return_N=True)
    sizes = np.zeros(num_parts + 1, dtype=np.int64)
    for plane in parts:  # bincount makes int64 copies, so not of the whole volume at once
        sizes += np.bincount(plane.ravel(), minlength=num_parts + 1)
    return parts, sizes


def find_box(mask: Array) -> tuple[slice, slice, slice]:
    """The smallest box around the voxels that are not 0; of nothing the empty box at the origin.

    Example:
        >>> find_box(np.array([[[0, 0, 3, 3, 0]]]))
        (slice(0, 1, None), slice(0, 1, None), slice(2, 4, None))
    """
    edges = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        edges.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0))
    i, j, k = edges
    return i, j, k
