"""`Regrid`: slices of a tilted gantry, or at uneven distances, on a rectangular grid and back.

The slices of a tilted gantry are parallel, but each lies a little further along its own plane than the one before. Such
a series is sheared onto a rectangular grid: every slice keeps its plane and is shifted within it, by a fraction of a
pixel, with linear interpolation. Slices at uneven distances are interpolated linearly between their two neighbours.
Labels go back to the original slices by the nearest voxel, so that a mask lies on the pixels that were scanned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.volume import Affine, Array, Shape3

_ON_PLANE = 1e-3  # fraction of a slice distance below which a new plane is an old one


@dataclass(frozen=True, eq=False, kw_only=True)
class Regrid:
    """From ``N`` slices of ``rows x columns`` to a grid ``(I, J, K)``.

    Attributes:
        shape: ``(I, J, K)`` of the grid.
        affine_lps: Of the grid, LPS mm.
        frame_shape: Rows and columns of a slice.
        shifts: ``(N, 2)``: grid index ``(i, j)`` of the first pixel of each slice, with fractions.
        depths: ``(N,)``: grid index ``k`` of each slice, with fractions, rising.
    """

    shape: Shape3
    affine_lps: Affine
    frame_shape: tuple[int, int]
    shifts: NDArray[np.float64]
    depths: NDArray[np.float64]

    def resample(self, read_frame: Callable[[int], Array]) -> tuple[Array, NDArray[np.bool_]]:
        """The slices on the grid.

        Args:
            read_frame: Index of a slice -> its intensities ``(rows, columns)``. Each slice is asked for once, in order.

        Returns:
            Intensities ``(I, J, K)`` float32, and where the slices do not reach (``(I, J, K)`` bool), which holds 0.
        """
        num_i, num_j, num_k = self.shape
        voxels = np.zeros((num_k, num_j, num_i), dtype=np.float32)
        outside = np.zeros((num_k, num_j, num_i), dtype=np.bool_)
        slices: dict[int, Array] = {}
        for k in range(num_k):
            lower, upper, weight = self._find_neighbours(k)
            for frame in sorted({lower, upper} - set(slices)):
                slices[frame] = np.asarray(read_frame(frame), dtype=np.float32)
            for frame in set(slices) - {lower, upper}:
                del slices[frame]
            # Between two slices a pixel follows the tilt: the new slice lies between its neighbours in every direction.
            blended = slices[lower] if weight == 0 else (1 - weight) * slices[lower] + weight * slices[upper]
            shift = (1 - weight) * self.shifts[lower] + weight * self.shifts[upper]
            voxels[k], inside = self._shift(blended, shift)
            outside[k] = ~inside
        voxels[outside] = 0
        return voxels.transpose(2, 1, 0), outside.transpose(2, 1, 0)

    def labels_to_frames(self, labels: Array) -> Array:
        """Labels ``(I, J, K)`` on the original slices ``(N, rows, columns)``, by the nearest voxel."""
        rows, columns = self.frame_shape
        frames = np.zeros((len(self.depths), rows, columns), dtype=labels.dtype)
        for frame, (i, j, k) in enumerate(self._round()):
            frames[frame] = labels[i : i + columns, j : j + rows, k].T
        return frames

    def labels_from_frames(self, labels: Array) -> Array:
        """Labels of the slices ``(N, rows, columns)`` on the grid ``(I, J, K)``, by the nearest slice; 0 elsewhere."""
        rows, columns = self.frame_shape
        grid = np.zeros(self.shape, dtype=labels.dtype)
        rounded = self._round()
        for k in range(self.shape[2]):
            frame = int(np.argmin(np.abs(self.depths - k)))
            i, j, plane = rounded[frame]
            if plane != k:  # in a gap: as far along the tilt as the plane lies
                i, j = (int(np.floor(np.interp(k, self.depths, self.shifts[:, axis]) + 0.5)) for axis in (0, 1))
            grid[i : i + columns, j : j + rows, k] = labels[frame].T
        return grid

    def _round(self) -> list[tuple[int, int, int]]:
        """The grid index of the first pixel of each slice; the same both ways, so that labels survive the round trip."""
        origin = np.floor(np.column_stack([self.shifts, self.depths]) + 0.5).astype(int)
        return [(int(i), int(j), int(k)) for i, j, k in origin]

    def _find_neighbours(self, k: int) -> tuple[int, int, float]:
        upper = int(np.searchsorted(self.depths, k - _ON_PLANE))
        upper = min(upper, len(self.depths) - 1)
        if abs(self.depths[upper] - k) <= _ON_PLANE or upper == 0:
            return upper, upper, 0.0
        lower = upper - 1
        weight = (k - self.depths[lower]) / (self.depths[upper] - self.depths[lower])
        return lower, upper, float(min(1.0, weight))

    def _shift(self, values: Array, shift: NDArray[np.float64]) -> tuple[Array, NDArray[np.bool_]]:
        """One slice ``(rows, columns)`` moved within its plane onto the grid ``(J, I)``, and where it reaches."""
        along_i, inside_i = _shift_rows(values, float(shift[0]), self.shape[0])
        along_j, inside_j = _shift_rows(np.ascontiguousarray(along_i.T), float(shift[1]), self.shape[1])
        return along_j.T, inside_j[:, None] & inside_i[None, :]


def _shift_rows(values: Array, shift: float, length: int) -> tuple[Array, NDArray[np.bool_]]:
    """Each row of ``values (n, m)`` sampled at ``0 .. length - 1`` after a move by ``shift``, linearly."""
    position = np.arange(length) - shift
    # Rounding of positions must not cost the outermost pixel.
    inside = (position >= -_ON_PLANE) & (position <= values.shape[1] - 1 + _ON_PLANE)
    position = np.clip(position, 0, values.shape[1] - 1)
    lower = np.minimum(np.floor(position).astype(int), max(values.shape[1] - 2, 0))
    upper = np.minimum(lower + 1, values.shape[1] - 1)
    weight = (position - lower).astype(np.float32)
    return values[:, lower] * (1 - weight) + values[:, upper] * weight, inside


def _count_steps(ratio: float) -> int:
    """How many of the smallest steps make the whole; rounded up, unless it is whole but for the jitter of positions."""
    nearest = max(1, round(ratio))
    return nearest if abs(ratio - nearest) < 0.1 else math.ceil(ratio)


def build_regrid(planes: list[Affine], frame_shape: tuple[int, int], depths_mm: NDArray[np.float64]) -> Regrid:
    """The smallest rectangular grid that holds all slices.

    Its axes are those of the first slice and its normal. Its slice distance is the smallest of the series, stretched so
    that the first and the last slice are planes of the grid: no slice is lost between two planes.

    Args:
        planes: ``(column, row, 0, 1)`` -> LPS mm of every slice, rising along the normal.
        frame_shape: Rows and columns.
        depths_mm: ``(N,)`` position of every slice along the normal.
    """
    first = planes[0]
    spacing = np.linalg.norm(first[:3, :2], axis=0)
    axes = first[:3, :2] / spacing
    offsets = np.array([plane[:3, 3] - first[:3, 3] for plane in planes])  # (N, 3)
    shifts = offsets @ axes / spacing  # (N, 2) pixels
    rounded = np.rint(shifts)
    shifts = np.where(np.abs(shifts - rounded) < _ON_PLANE, rounded, shifts)
    corner = np.floor(shifts.min(axis=0))
    shifts = shifts - corner
    rows, columns = frame_shape
    extent = np.ceil(shifts.max(axis=0)).astype(int) + np.array([columns, rows])
    length_mm = float(depths_mm[-1] - depths_mm[0])
    num_steps = _count_steps(length_mm / float(np.diff(depths_mm).min()))
    step = length_mm / num_steps
    affine = first.copy()
    affine[:3, 2] = first[:3, 2] * step
    affine[:3, 3] = first[:3, 3] + first[:3, :2] @ corner
    return Regrid(
        shape=(int(extent[0]), int(extent[1]), num_steps + 1),
        affine_lps=affine,
        frame_shape=frame_shape,
        shifts=shifts,
        depths=(depths_mm - depths_mm[0]) / step,
    )
