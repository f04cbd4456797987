"""Channels on other grids, brought to the grid of the first: turned exactly where that is all, interpolated elsewhere.

Two sequences of one examination seldom share a grid: T2 in 3 mm slices, ADC in 4 mm slices of another tilt. Linear
interpolation between voxel centres; no smoothing before a coarser grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from medunet.errors import GeometryError
from medunet.volume import Affine, Array, Volume, describe_grid, is_same_grid, turn_to_grid

logger = logging.getLogger(__name__)

_EDGE_TOLERANCE = 1e-3
"""In voxels: rounding of an affine must not cost the outermost plane."""


def put_channel_on_grid(volume: Volume, grid: Volume, name: str, grid_name: str) -> Volume:
    """A channel on the grid of another one; interpolated, and said so in the log, only where it must be.

    Args:
        volume: The channel (or several of one file).
        grid: Gives the grid.
        name: What messages call ``volume``.
        grid_name: What messages call ``grid``.

    Returns:
        ``volume`` itself on the same grid; the same voxels in another order where only the axes differ; else
        `resample_to_grid`.

    Raises:
        GeometryError: If no voxel of the grid lies within the channel's field of view.
    """
    turned = turn_to_grid(volume, grid)
    if is_same_grid(turned, grid):
        return turned
    covered = compute_coverage(volume, grid)
    if covered == 0:
        msg = (
            f"{name} and {grid_name} do not overlap anywhere: {describe_grid(volume)} against {describe_grid(grid)}. "
            "Are they of one examination of one patient?"
        )
        raise GeometryError(msg)
    logger.warning(
        "%s is resampled to the grid of %s: %s, from %s; it covers %.1f %% of that grid, the rest takes its minimum.",
        name,
        grid_name,
        describe_grid(grid),
        describe_grid(volume),
        100 * covered,
    )
    return resample_to_grid(volume, grid)


def resample_to_grid(volume: Volume, grid: Volume) -> Volume:
    """Interpolate a volume linearly at the voxel centres of another grid.

    Args:
        volume: Image ``(C, I, J, K)``; affine RAS+ mm.
        grid: Gives affine and shape; its voxels are not looked at.

    Returns:
        float32 ``(C, *grid.spatial_shape)``. Between the centre and the edge of the outermost voxels their value holds;
        outside the field of view stands the minimum of the channel.

    Raises:
        GeometryError: If no voxel of the grid lies within the field of view.
    """
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(volume.affine) @ grid.affine
    if compute_coverage(volume, grid) == 0:
        msg = f"The volumes do not overlap anywhere: {describe_grid(volume)} against {describe_grid(grid)}."
        raise GeometryError(msg)
    array = np.empty((volume.num_channels, *grid.spatial_shape), dtype=np.float32)
    for channel, source in zip(array, volume.array, strict=True):
        affine_transform(source, matrix[:3, :3], matrix[:3, 3], output=channel, order=1, mode="nearest")
        _fill_outside(channel, matrix, source.shape, source.min())
    return Volume(array, grid.affine)


def compute_coverage(volume: Volume, grid: Volume) -> float:
    """Share of the grid's voxel centres within the field of view of a volume, voxel edges included; 0 to 1."""
    matrix = np.linalg.inv(volume.affine) @ grid.affine
    num_inside = sum(int(plane.sum()) for plane in _iterate_inside(matrix, volume.spatial_shape, grid.spatial_shape))
    return num_inside / int(np.prod(grid.spatial_shape))


def _fill_outside(channel: Array, matrix: Affine, source_shape: tuple[int, ...], value: float) -> None:
    for plane, inside in zip(channel, _iterate_inside(matrix, source_shape, channel.shape), strict=True):
        plane[~inside] = value


def _iterate_inside(matrix: Affine, source_shape: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Array]:
    """Plane by plane along I, which voxels ``(J, K)`` of a grid lie within a source; ``matrix`` leads to its indices."""
    j, k = np.arange(shape[1])[:, None], np.arange(shape[2])
    for i in range(shape[0]):
        inside = np.ones(shape[1:], dtype=bool)
        for axis, length in enumerate(source_shape):
            # Two small arrays and one sum per axis, so that a plane costs little.
            position = (matrix[axis, 0] * i + matrix[axis, 3] + matrix[axis, 1] * j) + matrix[axis, 2] * k
            inside &= (position >= -0.5 - _EDGE_TOLERANCE) & (position <= length - 0.5 + _EDGE_TOLERANCE)
        yield inside
