"""Volumes of structures, which a scan that cuts them does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medunet.postprocessing.parts import find_value_boxes, join_boxes
from medunet.postprocessing.sides import Axes, list_touched_sides
from medunet.volume import Array, Volume


@dataclass(frozen=True, kw_only=True)
class LabelVolume:
    """The volume of one label or region in one mask.

    Attributes:
        volume_ml: 0 where nothing of it was found; None where the volume cannot be known.
        reason: Why it is None; None where it is known.
        visible_ml: What lies within the scan, in either case.
    """

    volume_ml: float | None
    reason: str | None = None
    visible_ml: float


def compute_label_volumes(labels: Volume, label_values: Mapping[str, tuple[int, ...]]) -> dict[str, LabelVolume]:
    """The volume of every label, or why it is not known: a structure that reaches the border of the scan may go on.

    Whether a scan *usually* cuts a structure (a femur) makes no difference here; `find_flags` knows it.

    Args:
        labels: ``(1, I, J, K)`` on the scan's grid.
        label_values: Label or region name -> values in ``labels``.
    """
    label_map = labels.array[0]
    axes = Axes.of(labels)
    voxel_ml = labels.voxel_volume_mm3 / 1000
    values = {value for of_label in label_values.values() for value in of_label}
    boxes = find_value_boxes(label_map, values)
    num_voxels = _count_values(label_map)
    volumes = {}
    for name, of_label in label_values.items():
        visible_ml = voxel_ml * sum(num_voxels.get(value, 0) for value in of_label)
        found = [boxes[value] for value in of_label if value in boxes]
        sides = list_touched_sides(join_boxes(found), labels.spatial_shape, axes) if found else ()
        volumes[name] = LabelVolume(
            volume_ml=None if sides else visible_ml,
            reason=f"{name} {describe_cut(sides)}, so part of it may lie outside." if sides else None,
            visible_ml=visible_ml,
        )
    return volumes


def describe_cut(sides: tuple[str, ...]) -> str:
    """A phrase such as ``"touches the superior border of the scan"``.

    Example:
        >>> describe_cut(("left", "inferior"))
        'touches the left and inferior borders of the scan'
    """
    *first, last = sides
    return (
        f"touches the {', '.join(first)} and {last} borders of the scan"
        if first
        else f"touches the {last} border of the scan"
    )


def _count_values(label_map: Array) -> dict[int, int]:
    """Voxels of every value, plane by plane: sorting or copying the whole map would take longer and more memory."""
    planes = label_map.T if label_map.flags.f_contiguous else label_map
    if label_map.dtype in (np.uint8, np.uint16):
        counts = np.zeros(np.iinfo(label_map.dtype).max + 1, dtype=np.int64)
        for plane in planes:
            counts += np.bincount(plane.ravel(), minlength=len(counts))
        return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}
    num_voxels: dict[int, int] = {}
    for plane in planes:
        for value, count in zip(*(found.tolist() for found in np.unique(plane, return_counts=True)), strict=True):
            num_voxels[value] = num_voxels.get(value, 0) + count
    return num_voxels
