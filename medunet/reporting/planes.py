"""The three planes of a scan as a reader of images expects them, and the slices where the labels are seen best.

Radiological convention: the patient's right is on the left side of axial and coronal pictures, anterior is on top of
axial ones and on the left of sagittal ones, superior is on top of the other two. Everything here works on RAS copies:

```text
axis of the array        I -> R        J -> A        K -> S
axial     columns  R <- L   (I falling)     rows  A above P   (J falling)
coronal   columns  R <- L   (I falling)     rows  S above I   (K falling)
sagittal  columns  A <- P   (J falling)     rows  S above I   (K falling)
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from medunet.volume import Array, Shape3, Volume, to_orientation

PlaneName: TypeAlias = Literal["axial", "coronal", "sagittal"]

_WELL_SEEN = 0.25  # a slice shows a label when it holds this share of the label's largest cross-section


@dataclass(frozen=True, kw_only=True)
class Plane:
    """How one plane is cut from a RAS array ``(I, J, K)`` and laid on the page.

    Attributes:
        name: Of the plane.
        axis: Array axis across the plane.
        column_axis: Array axis that runs along the picture's columns, falling from left to right.
        row_axis: Array axis that runs along the picture's rows, falling from top to bottom.
        first_side: Where slice 0 lies.
        left: Letter of the direction at the picture's left edge; likewise the next three.
        right: Letter at the right edge.
        top: Letter at the top edge.
        bottom: Letter at the bottom edge.
    """

    name: PlaneName
    axis: int
    column_axis: int
    row_axis: int
    first_side: str
    left: str
    right: str
    top: str
    bottom: str


PLANES = (
    Plane(
        name="axial", axis=2, column_axis=0, row_axis=1, first_side="below", left="R", right="L", top="A", bottom="P"
    ),
    Plane(
        name="coronal", axis=1, column_axis=0, row_axis=2, first_side="behind", left="R", right="L", top="S", bottom="I"
    ),
    Plane(
        name="sagittal",
        axis=0,
        column_axis=1,
        row_axis=2,
        first_side="the left",
        left="A",
        right="P",
        top="S",
        bottom="I",
    ),
)


def find_flat_plane(shape: Sequence[int]) -> Plane | None:
    """The plane that ``(I, J, K)`` voxels lie in when they are one slice, or None."""
    return next((plane for plane in PLANES if shape[plane.axis] == 1), None)


def to_ras_array(volume: Volume) -> Array:
    """The first channel ``(I, J, K)`` with axes along right, anterior and superior."""
    array: Array = to_orientation(Volume(volume.array[:1], volume.affine), "RAS").array[0]
    return array


def cut_plane(array: Array, plane: Plane, index: int) -> Array:
    """One slice of a RAS array, as ``(rows, columns)`` with row 0 on top and column 0 on the left."""
    cut: Array = np.take(array, index, axis=plane.axis).T[::-1, ::-1]
    return cut


@dataclass(frozen=True, kw_only=True)
class LabelAreas:
    """Where labels lie along each array axis.

    Attributes:
        areas: Per array axis, voxels per slice and label, ``(slices, labels)``.
    """

    areas: tuple[Array, Array, Array]

    def __add__(self, other: LabelAreas) -> LabelAreas:
        i, j, k = (first + second for first, second in zip(self.areas, other.areas, strict=True))
        return LabelAreas(areas=(i, j, k))

    def has_any(self) -> bool:
        """Whether any label is anywhere."""
        return bool(self.areas[0].any())

    def find_range(self, axis: int) -> tuple[int, int]:
        """First and last slice along an axis that hold a label; all slices when there is no label."""
        slices = np.flatnonzero(self.areas[axis].any(axis=1))
        return (int(slices[0]), int(slices[-1])) if len(slices) else (0, len(self.areas[axis]) - 1)

    def choose_slice(self, axis: int) -> int:
        """The slice where most labels are well seen; among those the one with the largest cross-sections.

        A label is well seen where it has a quarter of its largest cross-section. Every label counts alike in the
        second step too, so that a large organ does not decide alone.

        Returns:
            The slice index along ``axis``; the middle one when no label is anywhere.
        """
        areas = self.areas[axis][:, self.areas[axis].any(axis=0)]
        if not areas.shape[1]:
            return len(areas) // 2
        shares = areas / areas.max(axis=0)
        num_seen = (shares >= _WELL_SEEN).sum(axis=1)
        merit = np.where(num_seen == num_seen.max(), shares.sum(axis=1), -1.0)
        # Of equally good slices the middle one: phantoms and tubes have many.
        best = np.flatnonzero(np.isclose(merit, merit.max()))
        return int(best[len(best) // 2])


def measure_areas(label_map: Array | None, labels: Mapping[str, Sequence[int]], shape: Shape3) -> LabelAreas:
    """Count the voxels of every label in every slice of a RAS label map ``(I, J, K)``, in one pass per axis.

    No label map has no voxels.
    """
    values = np.unique([value for of_label in labels.values() for value in of_label]).astype(np.int64)
    indices = np.zeros(shape, dtype=np.uint16) if label_map is None else _index_values(label_map, values)
    columns = [np.searchsorted(values, list(of_label)) + 1 for of_label in labels.values()]
    i, j, k = (_count_slices(np.moveaxis(indices, axis, 0), columns, len(values) + 1) for axis in range(3))
    return LabelAreas(areas=(i, j, k))


def _count_slices(slices: Array, columns: Sequence[Array], num_values: int) -> Array:
    """Voxels per slice and label, ``(slices, labels)``, from voxels that hold the place of their value."""
    per_value = np.stack([np.bincount(s.ravel(), minlength=num_values) for s in slices])  # (slices, values)
    return np.array([per_value[:, of_label].sum(axis=1) for of_label in columns]).reshape(len(columns), len(slices)).T


def _index_values(label_map: Array, values: Array) -> Array:
    """0 for background and foreign values, n + 1 for the n-th of the sorted values."""
    indices = np.zeros(label_map.shape, dtype=np.uint16)
    if len(values):
        occupied = label_map != 0
        found = label_map[occupied]
        place = np.searchsorted(values, found).clip(max=len(values) - 1)
        indices[occupied] = np.where(values[place] == found, place + 1, 0)
    return indices
