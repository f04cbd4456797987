"""Images from one grid to another by cubic B-splines, as one matrix product per axis.

A cubic spline through the voxels is linear in them: prefilter (Unser 1999, doi:10.1109/79.799930), border and
interpolation together are one matrix per axis. Three matrix products take the place of 64 products per voxel, and run
on any device. Beyond the border the image goes on with its last voxel, as in nnU-Net (``order=3, mode="edge"``) and in
SciPy (``mode="nearest"``).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor

from medunet.preprocessing.resample import compute_axis_mapping, pick_nearest
from medunet.volume import Affine, Array, Shape3

_BORDER = 12
"""Voxels repeated beyond the border before the prefilter, whose memory fades by 0.27 per voxel."""


def resample_cubic(
    image: Tensor,
    source_affine: Affine,
    target_affine: Affine,
    target_shape: Shape3,
    *,
    nearest_axis: int | None = None,
) -> Tensor:
    """An image on another grid.

    Args:
        image: ``(C, I, J, K)`` float32, on any device.
        source_affine: Of the image, RAS+ mm.
        target_affine: Of the result; its axes run along the source's axes, in any order and direction.
        target_shape: ``(I, J, K)`` of the result.
        nearest_axis: Target axis along which the nearest voxel is taken instead (`find_coarse_axis`).

    Returns:
        ``(C, *target_shape)``, contiguous. Axes on which nothing changes are left as they are; where that is all of
        them, the result may be ``image`` itself.

    Raises:
        GeometryError: If the grids are rotated against each other.
    """
    axes, scales, shifts = compute_axis_mapping(source_affine, target_affine)
    moved = image.permute(0, *(1 + axis for axis in axes))
    # What shrinks most goes first, so that the later products are small.
    for axis in sorted(range(3), key=lambda axis: target_shape[axis] / moved.shape[1 + axis]):
        positions = np.arange(target_shape[axis]) * scales[axis] + shifts[axis]
        if axis == nearest_axis:
            moved = pick_nearest(moved, 1 + axis, torch.from_numpy(positions))
        elif not _is_unchanged(positions, moved.shape[1 + axis]):
            moved = _multiply_axis(moved, axis, compute_cubic_matrix(moved.shape[1 + axis], positions))
    return moved.contiguous()


def compute_cubic_matrix(length: int, positions: Array) -> Array:
    """What every voxel of a line adds to the spline through that line at given positions.

    Args:
        length: Voxels of the line.
        positions: ``(M,)`` voxel indices, also between and beyond the voxels.

    Returns:
        ``(M, length)`` float64; every row sums to 1.
    """
    # Away from the border by more than it is repeated, everything is the last voxel.
    places = np.clip(positions, 2 - _BORDER, length + _BORDER - 3) + _BORDER
    first = np.floor(places).astype(int) - 1
    u = places - 1 - first
    weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], axis=1) / 6
    basis = np.zeros((len(places), length + 2 * _BORDER))
    np.put_along_axis(basis, first[:, None] + np.arange(4), weights, axis=1)
    matrix: Array = basis @ _compute_coefficients(length)
    return matrix


def _compute_coefficients(length: int) -> Array:
    """From the voxels of a line to the spline's coefficients on the line with its repeated border."""
    padded = length + 2 * _BORDER
    bands = np.empty((3, padded))
    bands[0], bands[1], bands[2] = 1 / 6, 4 / 6, 1 / 6
    bands[0, 1] = bands[2, -2] = 2 / 6  # the line is mirrored at its ends
    repeated = np.zeros((padded, length))
    repeated[np.arange(padded), np.clip(np.arange(padded) - _BORDER, 0, length - 1)] = 1
    coefficients: Array = solve_banded((1, 1), bands, repeated)
    return coefficients


def _is_unchanged(positions: Array, length: int) -> bool:
    return len(positions) == length and bool(np.abs(positions - np.arange(length)).max() < 1e-3)


def _multiply_axis(image: Tensor, axis: int, matrix: Array) -> Tensor:
    """Apply a matrix ``(M, N)`` along one spatial axis of ``(C, I, J, K)``, without moving the axis in memory."""
    weights = torch.from_numpy(matrix).to(image)
    c, i, j, k = image.shape
    if axis == 0:
        return (weights @ image.reshape(c, i, j * k)).reshape(c, -1, j, k)
    if axis == 1:
        return weights @ image
    return image @ weights.T
