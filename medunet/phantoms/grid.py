"""Voxel grids along the world axes, and anatomical coordinates on them.

A phantom is a function of the place in the patient. `Grid` says where the voxels of a scan lie in the world; `Points`
holds the anatomical coordinates of those voxels, after position, size and deformation of the patient were undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medunet.volume import Affine, Shape3, Spacing

Floats: TypeAlias = NDArray[np.float32]
Vector: TypeAlias = tuple[float, float, float]
Box: TypeAlias = tuple[slice, slice, slice]

_STRIDE = 4  # boxes are searched on every fourth voxel


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid whose axes I, J, K run along world x, y, z, each in either direction.

    Attributes:
        spatial_shape: ``(I, J, K)``.
        affine: Voxel index to world, RAS+ mm; diagonal apart from the origin.

    Example:
        >>> grid = Grid.around((0.0, 0.0, 0.0), shape=(4, 4, 2), spacing=(1.0, 1.0, 3.0), orientation="LPS")
        >>> grid.axes()[0].tolist(), grid.axes()[2].tolist()
        ([1.5, 0.5, -0.5, -1.5], [-1.5, 1.5])
    """

    spatial_shape: Shape3
    affine: Affine

    @staticmethod
    def around(center: Vector, *, shape: Shape3, spacing: Spacing, orientation: str) -> Grid:
        """The grid with this middle, in mm; ``orientation`` is one of R/L, then A/P, then S/I."""
        signs = [1.0 if code in "RAS" else -1.0 for code in orientation]
        affine = np.diag([sign * mm for sign, mm in zip(signs, spacing, strict=True)] + [1.0])
        affine[:3, 3] = np.array(center) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return Grid(shape, affine)

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """World x along I, y along J and z along K, in mm."""
        x, y, z = (
            (self.affine[axis, axis] * np.arange(n) + self.affine[axis, 3]).astype(np.float32)
            for axis, n in enumerate(self.spatial_shape)
        )
        return x, y, z


@dataclass(frozen=True, eq=False)
class Points:
    """Anatomical coordinates of voxels in mm, ``(I, J, K)`` each: x to the right, y to the front, z to the head."""

    x: Floats
    y: Floats
    z: Floats

    def __getitem__(self, box: tuple[slice, ...]) -> Points:
        """The points of a part of the grid."""
        return Points(self.x[box], self.y[box], self.z[box])

    def find_box(self, lower: Vector, upper: Vector, *, margin_mm: float) -> Box | None:
        """The smallest part of the grid that surely holds all points between two corners.

        Args:
            lower: Smallest anatomical coordinates, mm.
            upper: Largest anatomical coordinates, mm.
            margin_mm: Room to leave around them.

        Returns:
            Index slices, or None where no voxel lies in between.
        """
        sparse = self[(slice(None, None, _STRIDE),) * 3]
        room = margin_mm + 2.0 * _STRIDE  # what may lie between two sparse voxels along the thick axis is caught here
        inside = np.ones(sparse.x.shape, dtype=bool)
        for values, low, high in zip((sparse.x, sparse.y, sparse.z), lower, upper, strict=True):
            inside &= (values > low - room) & (values < high + room)
        if not inside.any():
            return None
        i, j, k = (self._bounds(inside, axis) for axis in range(3))
        return i, j, k

    def _bounds(self, inside: NDArray[np.bool_], axis: int) -> slice:
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(inside.any(axis=others))
        first, last = int(hits[0]), int(hits[-1])
        return slice(max(0, (first - 1) * _STRIDE), min(self.x.shape[axis], (last + 1) * _STRIDE + 1))
