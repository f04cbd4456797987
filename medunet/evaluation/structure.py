"""What is measured of the structures of one case beside the counts: surfaces and centres, within each structure's box."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medunet.evaluation.case import Labels
from medunet.evaluation.surface import (
    Box,
    SurfaceDistances,
    SurfaceKind,
    find_flat_axis,
    find_union_box,
    measure_surfaces,
)
from medunet.volume import Affine, Array, Volume

_MOST_BOXES = 2**16  # boxes are found for all values up to the largest


@dataclass(frozen=True, eq=False, kw_only=True)
class StructureMeasures:
    """One structure that both sides have.

    Attributes:
        distances: Between the surfaces.
        centre_distance_mm: Between the centres of mass.
    """

    distances: SurfaceDistances
    centre_distance_mm: float


def measure_structures(
    reference: Volume,
    prediction: Volume,
    labels: Labels,
    *,
    ignore_value: int | None = None,
    kind: SurfaceKind = "elements",
) -> Iterator[tuple[str, StructureMeasures]]:
    """Measure the structures of one case one after the other, each within the box that holds both of its masks.

    Args:
        reference: Label map ``(1, I, J, K)``.
        prediction: Label map on the same grid.
        labels: Name -> values; regions have several, and may overlap.
        ignore_value: Voxels with this value in the reference leave both sides.
        kind: What counts as surface.

    Yields:
        Name and measures; structures that a side does not have are left out.
    """
    sides = (reference.array[0], prediction.array[0])
    boxes = [find_value_boxes(side) for side in sides]
    flat_axis = find_flat_axis(reference.spatial_shape)
    for name, values in labels.items():
        found = [[of_side[value] for value in values if value in of_side] for of_side in boxes]
        if not all(found):
            continue
        box = join_boxes([*found[0], *found[1]])
        expected, predicted = (select_values(side[box], values) for side in sides)
        if ignore_value is not None:
            is_valid = sides[0][box] != ignore_value
            expected, predicted = expected & is_valid, predicted & is_valid
        if not (expected.any() and predicted.any()):
            continue
        yield (
            name,
            StructureMeasures(
                distances=measure_surfaces(expected, predicted, reference.spacing, flat_axis=flat_axis, kind=kind),
                centre_distance_mm=compute_centre_distance_mm(expected, predicted, reference.affine),
            ),
        )


def find_value_boxes(labels: Array) -> Mapping[int, Box]:
    """The smallest box of every value of a label map ``(I, J, K)`` but 0."""
    from scipy.ndimage import find_objects

    largest = int(labels.max())
    if 0 < largest < _MOST_BOXES and labels.dtype.kind in "iu":
        boxes = find_objects(labels, largest)
        return {value: box for value, box in enumerate(boxes, start=1) if box is not None}
    found = {}
    for value in np.unique(labels).tolist():
        mask = labels == value
        box = find_union_box(mask, mask) if value else None
        if box is not None:
            found[int(value)] = box
    return found


def compute_centre_distance_mm(reference: Array, prediction: Array, affine: Affine) -> float:
    """Distance between the centres of mass of two masks ``(I, J, K)`` that hold a voxel each.

    Example:
        >>> compute_centre_distance_mm(np.array([[[1, 1, 0, 0]]]), np.array([[[0, 0, 1, 1]]]), np.diag([1, 1, 2.5, 1]))
        5.0
    """
    shift = _find_centre(prediction) - _find_centre(reference)
    return float(np.linalg.norm(affine[:3, :3] @ shift))


def _find_centre(mask: Array) -> Array:
    indices = np.flatnonzero(mask)
    i, in_plane = np.divmod(indices, mask.shape[1] * mask.shape[2])
    j, k = np.divmod(in_plane, mask.shape[2])
    return np.array([i.mean(), j.mean(), k.mean()])


def join_boxes(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of some boxes."""
    edges = [slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)]
    return edges[0], edges[1], edges[2]


def select_values(labels: Array, values: Sequence[int]) -> Array:
    """Where a label map holds one of some values; many times faster than ``np.isin`` on small integers."""
    mask: Array = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask
