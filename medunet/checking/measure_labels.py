"""Measures of every label of a label map, each within the box that holds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medunet.checking.report import LabelFacts
from medunet.tasks import Task
from medunet.volume import Array, Volume

ISLAND_VOXELS = 10
"""A part of at most so many voxels is an island"""
MAINLAND_VOXELS = 10 * ISLAND_VOXELS
"""... where the label has a part of at least so many."""
_LOW_SIDES, _HIGH_SIDES = "LPI", "RAS"

Box = tuple[slice, slice, slice]


def measure_labels(labels: Volume, task: Task, kept: Box) -> dict[str, LabelFacts]:
    """Measure the labels that occur.

    Args:
        labels: Label map in RAS orientation with the values of the task.
        task: Which values make a label.
        kept: What preprocessing keeps of the image (`medunet.planning.compute_crop_box`).

    Returns:
        Label -> measures, in the order of the task; without the labels that have no voxel.
    """
    from scipy import ndimage

    array = labels.array[0]
    boxes: list[Box | None] = ndimage.find_objects(array)  # of value 1, 2, ...
    measured = {}
    for name, values in task.labels.items():
        own = [box for value in values if value <= len(boxes) and (box := boxes[value - 1]) is not None]
        if own:
            measured[name] = _measure_label(labels, values, _join(own), kept)
    return measured


def _join(boxes: Sequence[Box]) -> Box:
    i, j, k = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return i, j, k


def _measure_label(labels: Volume, values: Sequence[int], box: Box, kept: Box) -> LabelFacts:
    mask = np.isin(labels.array[0][box], values)
    num_voxels = int(mask.sum())
    sizes = _measure_parts(mask)
    largest = int(sizes.max())
    islands = sizes[sizes <= ISLAND_VOXELS] if largest >= MAINLAND_VOXELS else sizes[:0]
    x, y, z = (labels.affine @ [*_compute_centroid(mask, box), 1.0])[:3].tolist()
    return LabelFacts(
        num_voxels=num_voxels,
        volume_ml=num_voxels * labels.voxel_volume_mm3 / 1000,
        centroid_mm=(x, y, z),
        num_parts=len(sizes),
        largest_part_voxels=largest,
        num_islands=len(islands),
        island_voxels=int(islands.sum()),
        cropped_voxels=num_voxels - int(mask[_intersect(kept, box)].sum()),
        borders=_list_borders(box, array_shape=labels.spatial_shape),
    )


def _intersect(kept: Box, box: Box) -> Box:
    """What of a box is kept, counted from the box's first voxel."""
    i, j, k = (
        slice(max(keep.start - edge.start, 0), max(keep.stop - edge.start, 0))
        for keep, edge in zip(kept, box, strict=True)
    )
    return i, j, k


def _measure_parts(mask: Array) -> Array:
    """Voxels of every connected component."""
    import cc3d

    # Of a bool array cc3d expects too few parts where the box is thin, and fails.
    parts = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
    return np.bincount(parts.ravel())[1:]


def _compute_centroid(mask: Array, box: Box) -> list[float]:
    """Mean voxel index."""
    centroid = []
    for axis in range(3):
        counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        centroid.append(float(box[axis].start + counts @ np.arange(len(counts)) / counts.sum()))
    return centroid


def _list_borders(box: Box, *, array_shape: Sequence[int]) -> tuple[str, ...]:
    sides = []
    for axis, length in enumerate(array_shape):
        if length == 1:  # one slice: everything touches both faces
            continue
        if box[axis].start == 0:
            sides.append(_LOW_SIDES[axis])
        if box[axis].stop == length:
            sides.append(_HIGH_SIDES[axis])
    return tuple(sides)
