"""What baselines look at: one smoothed channel, and voxels by their place in the world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from medunet.errors import InputError
from medunet.volume import Array, Shape3, Spacing, Volume


def take_channel(image: Volume, channel: int | None) -> Array:
    """One channel ``(I, J, K)`` float32, or the mean of all.

    Raises:
        InputError: If there is no such channel.
    """
    if channel is None:
        mean: Array = image.array.mean(axis=0, dtype=np.float32)
        return mean
    if not 0 <= channel < image.num_channels:
        msg = f"There is no channel {channel}; the scan has {image.num_channels}, counted from 0."
        raise InputError(msg)
    taken: Array = image.array[channel].astype(np.float32)
    return taken


def smooth(array: Array, spacing: Spacing, mm: float) -> Array:
    """A Gaussian with a standard deviation in mm over ``(I, J, K)``; 0 smooths nothing.

    Raises:
        InputError: If ``mm`` is negative or not finite.
    """
    if not 0 <= mm < np.inf:
        msg = f"The smoothing is {mm} mm; expected a number from 0 on."
        raise InputError(msg)
    if mm == 0:
        return array
    smoothed: Array = gaussian_filter(array, [mm / length for length in spacing], mode="nearest", truncate=3.0)
    return smoothed


def find_voxel(grid: Volume, place_mm: Sequence[float]) -> Shape3:
    """The voxel whose centre is nearest to a place in the world.

    Args:
        grid: Gives shape and affine.
        place_mm: x, y, z in RAS+ mm.

    Raises:
        InputError: If the place lies outside of the grid.

    Example:
        >>> volume = make_volume()
        >>> find_voxel(volume, volume.affine[:3, :3] @ [3.2, 4, 5] + volume.affine[:3, 3])
        (3, 4, 5)
    """
    index = np.linalg.solve(grid.affine, np.array([*place_mm, 1.0]))[:3]
    i, j, k = np.rint(index).astype(int).tolist()
    voxel = (i, j, k)
    check_voxel(grid, voxel, f"The place {', '.join(f'{mm:g}' for mm in place_mm)} mm")
    return voxel


def check_voxel(grid: Volume, voxel: Sequence[int], name: str) -> None:
    """Refuse a voxel outside of a grid.

    Raises:
        InputError: With the first and the last voxel, and where these lie.
    """
    if len(voxel) == 3 and all(0 <= place < length for place, length in zip(voxel, grid.spatial_shape, strict=True)):
        return
    last = np.array(grid.spatial_shape) - 1
    corners = [grid.affine[:3, :3] @ corner + grid.affine[:3, 3] for corner in (0 * last, last)]
    places = [f"({', '.join(f'{mm:.1f}' for mm in corner)})" for corner in corners]
    msg = (
        f"{name} is voxel {tuple(voxel)}, which lies outside of the scan; expected (0, 0, 0) to {tuple(last.tolist())}, which "
        f"is {places[0]} to {places[1]} mm in RAS+."
    )
    raise InputError(msg)
