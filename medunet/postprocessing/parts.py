"""Connected parts of a mask: voxels that touch by a face, an edge or a corner belong together (26 neighbours)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

import cc3d
import numpy as np
from scipy.ndimage import find_objects

from medunet.volume import Array

Box: TypeAlias = tuple[slice, slice, slice]

_CONNECTIVITY: Final = 26
_MAX_LISTED: Final = 65_535  # larger values would make a long list of boxes, and are numbered anew first


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


def find_box(mask: Array) -> Box:
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


def find_value_boxes(label_map: Array, values: Collection[int]) -> dict[int, Box]:
    """The smallest box around every value of a label map, found in one pass over the voxels.

    Args:
        label_map: Whole numbers ``(I, J, K)``.
        values: Positive; others that the map holds are passed over.

    Returns:
        Value -> box; values that do not occur are left out.

    Example:
        >>> find_value_boxes(np.array([[[1, 1, 0, 300, 2]]]), [1, 300, 4])
        {1: (slice(0, 1, None), slice(0, 1, None), slice(0, 2, None)),
         300: (slice(0, 1, None), slice(0, 1, None), slice(3, 4, None))}
    """
    rising = sorted(values)
    if not rising:
        return {}
    is_turned = label_map.flags.f_contiguous  # voxels are visited as they lie in memory
    label_map = label_map.T if is_turned else label_map
    if rising[-1] > _MAX_LISTED:
        places = np.searchsorted(rising, label_map).clip(max=len(rising) - 1)
        label_map = np.where(np.array(rising)[places] == label_map, places + 1, 0)
        places_of = {value: place for place, value in enumerate(rising)}
    else:
        places_of = {value: value - 1 for value in rising}
    boxes = find_objects(label_map, max_label=max(places_of.values()) + 1)
    found = {value: boxes[places_of[value]] for value in values}
    return {value: box[::-1] if is_turned else box for value, box in found.items() if box is not None}


def join_boxes(boxes: Iterable[Box]) -> Box:
    """The smallest box around some boxes, of which there is at least one.

    Example:
        >>> join_boxes([(slice(0, 2), slice(3, 4), slice(5, 6)), (slice(1, 3), slice(0, 1), slice(5, 6))])
        (slice(0, 3, None), slice(0, 4, None), slice(5, 6, None))
    """
    i, j, k = (
        slice(min(edge.start for edge in edges), max(edge.stop for edge in edges)) for edges in zip(*boxes, strict=True)
    )
    return i, j, k
