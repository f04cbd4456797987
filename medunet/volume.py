"""`Volume`: voxels and where they lie in the world; the only thing that crosses from room to room.

The array is ``(C, I, J, K)``. The affine maps voxel indices ``(i, j, k)`` to millimetres in RAS+ axes: x grows
towards the patient's right, y towards anterior, z towards superior
(https://nipy.org/nibabel/coordinate_systems.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError, VolumeError

Array: TypeAlias = NDArray[Any]
Affine: TypeAlias = NDArray[np.float64]
Spacing: TypeAlias = tuple[float, float, float]
Shape3: TypeAlias = tuple[int, int, int]

GRID_TOLERANCE_MM = 1e-2
"""Grids whose corners lie closer than this are the same: float32 headers round by less, faults move more."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label map with its place in the world.

    Attributes:
        array: Voxels, ``(C, I, J, K)``; a label map has ``C == 1`` and an integer dtype.
        affine: Voxel index to world, ``(4, 4)`` float64, RAS+ mm.

    Raises:
        VolumeError: If the array is not 4D, has an empty axis, or the affine is not finite or is singular.

    Example:
        >>> volume = make_volume(shape=(17, 22, 31), spacing=(0.7, 1.2, 3.0), orientation="LPI")
        >>> volume.spatial_shape, volume.orientation
        ((17, 22, 31), 'LPI')
    """

    array: Array
    affine: Affine

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or 0 in self.array.shape:
            msg = f"A volume needs an array (channels, I, J, K) without empty axes; got shape {self.array.shape}."
            raise VolumeError(msg)
        affine = np.asarray(self.affine, dtype=np.float64)
        if not _is_usable(affine):
            msg = f"A volume needs a finite, invertible 4x4 affine with the last row 0, 0, 0, 1; got {affine.tolist()}."
            raise VolumeError(msg)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(C, I, J, K)``."""
        c, i, j, k = self.array.shape
        return c, i, j, k

    @property
    def spatial_shape(self) -> Shape3:
        """``(I, J, K)``."""
        return self.shape[1:]

    @property
    def num_channels(self) -> int:
        """The number of channels, ``C``."""
        return self.shape[0]

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm, ``(I, J, K)`` order."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each array axis, for example ``"RAS"`` or ``"LPI"``."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    def with_array(self, array: Array) -> Volume:
        """The same grid with other voxels; ``array`` is ``(C, I, J, K)``."""
        if array.shape[1:] != self.spatial_shape:
            msg = f"The new array has the grid {array.shape[1:]}, the volume has {self.spatial_shape}."
            raise GeometryError(msg)
        return Volume(array, self.affine)


def build_grid(shape: Shape3, affine: Affine) -> Volume:
    """A volume that is only a place: ``(1, I, J, K)`` zeros that take no memory."""
    return Volume(np.broadcast_to(np.uint8(0), (1, *shape)), affine)


def _is_usable(affine: Affine) -> bool:
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or affine[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # Relative to the voxel size: a microscope's voxels of 1e-5 mm are small, not singular.
    return bool(lengths.all()) and abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-6


def compute_grid_distance_mm(volume: Volume, other: Volume) -> float:
    """Largest distance between the same corner of two grids of equal shape, in mm.

    Returns:
        0 for identical grids; infinity when the spatial shapes differ.
    """
    if volume.spatial_shape != other.spatial_shape:
        return float("inf")
    ends = np.array(volume.spatial_shape) - 1
    corners = np.array(np.meshgrid(*[(0, end) for end in ends], indexing="ij")).reshape(3, -1)  # (3, 8)
    homogeneous = np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(((volume.affine - other.affine) @ homogeneous)[:3], axis=0).max())


def is_same_grid(volume: Volume, other: Volume) -> bool:
    """Whether all corners of two grids of equal shape lie closer than `GRID_TOLERANCE_MM`."""
    # A tenth of a voxel where voxels are so small that the tolerance would span several of them.
    return compute_grid_distance_mm(volume, other) <= min(GRID_TOLERANCE_MM, 0.1 * min(volume.spacing))


def check_same_grid(volume: Volume, other: Volume, name: str, other_name: str) -> None:
    """Refuse two volumes that do not lie on the same grid.

    Raises:
        GeometryError: With shape, spacing, orientation and origin of both.
    """
    if is_same_grid(volume, other):
        return
    distance_mm = compute_grid_distance_mm(volume, other)
    moved = "" if np.isinf(distance_mm) else f" (corners are up to {distance_mm:.2f} mm apart)"
    msg = (
        f"{name} and {other_name} lie on different grids{moved}: {describe_grid(volume)} against "
        f"{describe_grid(other)}. Resample one onto the other first."
    )
    raise GeometryError(msg)


def describe_grid(volume: Volume) -> str:
    """Shape, spacing, orientation and origin in one readable phrase."""
    shape = "x".join(str(n) for n in volume.spatial_shape)
    spacing = "x".join(f"{mm:.4g}" for mm in volume.spacing)
    origin = ", ".join(f"{mm:.2f}" for mm in volume.affine[:3, 3])
    return f"shape {shape}, spacing {spacing} mm, orientation {volume.orientation}, origin ({origin})"


def to_orientation(volume: Volume, orientation: str = "RAS") -> Volume:
    """Flip and permute the array axes so that they run along the given anatomical directions.

    The voxels keep their world positions; nothing is interpolated.

    Example:
        >>> to_orientation(make_volume(orientation="LPI"), "RAS").orientation
        'RAS'
    """
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        io_orientation,
        ornt_transform,
    )

    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(tuple(orientation)))
    channels = [apply_orientation(channel, change) for channel in volume.array]
    return Volume(np.stack(channels), volume.affine @ inv_ornt_aff(change, volume.spatial_shape))


def align_to_grid(volume: Volume, grid: Volume, name: str, grid_name: str) -> Volume:
    """Flip and permute the array axes of a volume so that they run as those of a grid which it must share.

    For masks that passed through another tool, which stores the same voxels along other axes: NIfTI in RAS beside DICOM
    in LPS. The voxels keep their world positions; nothing is interpolated, and a shift of half a voxel is refused.

    Args:
        volume: What to turn; its axes may be oblique.
        grid: Gives the order and direction of the axes.
        name: What messages call ``volume``.
        grid_name: What messages call ``grid``.

    Returns:
        ``volume`` itself where nothing is to be turned, else a turned copy; voxel ``(i, j, k)`` lies where that of
        ``grid`` does.

    Raises:
        GeometryError: If the two do not lie on the same grid, whatever the order of the axes.
    """
    turned = turn_to_grid(volume, grid)
    check_same_grid(
        turned, grid, name if turned is volume else f"{name} (axes turned to {grid.orientation})", grid_name
    )
    return turned


def turn_to_grid(volume: Volume, grid: Volume) -> Volume:
    """Flip and permute the array axes of a volume so that they run along those of any grid as nearly as they can.

    Returns:
        ``volume`` itself where nothing is to be turned, else a turned copy; the voxels keep their world positions.
    """
    from nibabel.orientations import inv_ornt_aff, io_orientation

    # Where the axes of the volume run, seen from the grid instead of from the patient: oblique makes no difference.
    change = io_orientation(np.linalg.inv(grid.affine) @ volume.affine).astype(int)
    if change.tolist() == [[0, 1], [1, 1], [2, 1]]:
        return volume
    flipped = np.flip(volume.array, tuple(1 + axis for axis in range(3) if change[axis, 1] < 0))
    array = flipped.transpose(0, *(1 + np.argsort(change[:, 0])))
    return Volume(np.ascontiguousarray(array), volume.affine @ inv_ornt_aff(change, volume.spatial_shape))
