"""What a picture of a scan and its label maps shows: which slices, which region, which grey values; in RAS axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medunet.reporting.palette import Colour, get_label_colours
from medunet.reporting.planes import PLANES, LabelAreas, Plane, find_flat_plane, measure_areas, to_ras_array
from medunet.reporting.window import Window, choose_window
from medunet.tasks import is_picture
from medunet.volume import Array, Spacing, Volume, check_same_grid, to_orientation

Labels = Mapping[str, Sequence[int]]

_MARGIN_MM = 15.0
_MARGIN_FRACTION = 0.15  # of the labelled region, on each side
_PLAIN_WINDOW: Window = (-1.0, 6.0)  # zeros become dark grey: the picture's edge can be seen, and every colour on it


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """What is drawn, in RAS axes.

    Attributes:
        image: ``(I, J, K)``; zeros where there is no scan.
        rgb: ``(I, J, K, 3)`` from 0 to 1, of a picture in colour; else None, and ``image`` is shown.
        prediction: ``(I, J, K)``, or None.
        reference: ``(I, J, K)``, or None.
        labels: Name -> values.
        num_voxels: Name -> voxels of prediction and reference in the whole scan.
        colours: Name -> colour.
        spacing: mm.
        window: Black and white.
        planes: All three, or the one of a single slice.
        is_picture: Whether it is no part of a body, which would have a left side.
        slices: Per array axis.
        centre_mm: Of what is shown, from the corner of the grid.
        side_mm: Of each square picture.
    """

    image: Array
    rgb: Array | None
    prediction: Array | None
    reference: Array | None
    labels: Labels
    num_voxels: dict[str, tuple[int, int]]
    colours: dict[str, Colour]
    spacing: Spacing
    window: Window
    planes: tuple[Plane, ...]
    is_picture: bool
    slices: tuple[int, int, int]
    centre_mm: tuple[float, float, float]
    side_mm: float


def build_scene(
    image: Volume | None,
    prediction: Volume | None,
    reference: Volume | None,
    labels: Labels,
    *,
    modality: str,
    window: Window | None = None,
) -> Scene:
    """Choose slices, region and grey values.

    Raises:
        GeometryError: If the grids differ.
        ValueError: If there is neither a scan nor a label map.
    """
    given = [volume for volume in (image, reference, prediction) if volume is not None]
    if not given:
        msg = "There is neither a scan nor a label map to draw; expected one of them."
        raise ValueError(msg)
    grid = given[0]
    for label_map, name in ((prediction, "The prediction"), (reference, "The reference")):
        if label_map is not None:
            check_same_grid(label_map, grid, name, "the scan" if image is not None else "the reference")
    sides = [None if side is None else to_ras_array(side) for side in (prediction, reference)]
    shown: Array
    if image is None:
        shown = np.zeros(next(side for side in sides if side is not None).shape, np.uint8)
        window = window or _PLAIN_WINDOW
    else:
        shown = to_ras_array(image)
        seen = image.array if has_colours(image, modality) else shown
        window = window or choose_window(seen, modality, _find_labelled(shown, sides, modality))
    spacing = to_orientation(Volume(grid.array[:1, :1, :1, :1], grid.affine), "RAS").spacing
    areas_per_side = [measure_areas(side, labels, shown.shape) for side in sides]
    areas = areas_per_side[0] + areas_per_side[1]
    i, j, k = (areas.choose_slice(axis) for axis in range(3))
    flat = find_flat_plane(shown.shape)
    planes = PLANES if flat is None else (flat,)  # across a single slice there is nothing but its edge
    centre_mm, side_mm = _choose_region(areas, spacing, planes)
    counts = [of_side.areas[0].sum(axis=0) for of_side in areas_per_side]
    return Scene(
        image=shown,
        rgb=take_colours(image, window) if image is not None and has_colours(image, modality) else None,
        prediction=sides[0],
        reference=sides[1],
        labels=labels,
        num_voxels={name: (int(p), int(r)) for name, p, r in zip(labels, *counts, strict=True)},
        colours=get_label_colours(labels),
        spacing=spacing,
        window=window,
        planes=planes,
        is_picture=is_picture(modality),
        slices=(i, j, k),
        centre_mm=centre_mm,
        side_mm=side_mm,
    )


def has_colours(image: Volume, modality: str) -> bool:
    """Whether it is a picture in red, green and blue, whose window is that of all three: any of them may be empty."""
    return is_picture(modality) and len(image.array) == 3


def take_colours(image: Volume, window: Window) -> Array:
    """Red, green and blue, ``(I, J, K, 3)`` from 0 to 1 in RAS axes, of a picture that has them (`has_colours`)."""
    channels = to_orientation(image, "RAS").array.astype(np.float32)
    low, high = (0.0, 255.0) if image.array.dtype == np.uint8 else window
    rgb: Array = np.clip((np.moveaxis(channels, 0, -1) - low) / (high - low), 0, 1)
    return rgb


def _find_labelled(image: Array, sides: Sequence[Array | None], modality: str) -> Array | None:
    """Voxels of the structures, where the grey values depend on them: of the reference, else of the prediction."""
    if modality.upper() != "CT":
        return None
    for side in reversed(sides):
        if side is not None and (found := image[side > 0]).size:
            return found
    return None


def _choose_region(
    areas: LabelAreas, spacing: Spacing, planes: Sequence[Plane]
) -> tuple[tuple[float, float, float], float]:
    """Centre and side of a cube in mm that holds the labels and some context, kept inside the scan where it can be."""
    seen = sorted({axis for plane in planes for axis in (plane.column_axis, plane.row_axis)})
    size_mm = [len(areas.areas[axis]) * spacing[axis] for axis in range(3)]
    ranges = [areas.find_range(axis) for axis in range(3)]
    extents = [(last + 1 - first) * mm for (first, last), mm in zip(ranges, spacing, strict=True)]
    largest = max(extents[axis] for axis in seen)
    margin = max(_MARGIN_MM, _MARGIN_FRACTION * largest) if areas.has_any() else 0.0
    side_mm = min(largest + 2 * margin, max(size_mm[axis] for axis in seen))
    x, y, z = (
        _keep_inside((first + last + 1) / 2 * mm, side_mm, size)
        for (first, last), mm, size in zip(ranges, spacing, size_mm, strict=True)
    )
    return (x, y, z), side_mm


def _keep_inside(centre: float, side: float, size: float) -> float:
    """Move a window of length ``side`` so that it shows as much of ``0..size`` as it can."""
    return size / 2 if side >= size else min(max(centre, side / 2), size - side / 2)
