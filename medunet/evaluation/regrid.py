"""A mask on the grid of its reference: turned exactly where that is all, refused or resampled elsewhere."""

from __future__ import annotations

import numpy as np

from medunet.errors import GeometryError
from medunet.volume import Volume, describe_grid, is_same_grid, turn_to_grid

_LATTICE_TOLERANCE = 0.01  # voxels


def put_mask_on_grid(mask: Volume, reference: Volume, *, case_id: str, resample: bool) -> Volume:
    """A mask along the axes of its reference.

    Args:
        mask: Label map ``(1, I, J, K)``.
        reference: Gives the grid.
        case_id: For messages.
        resample: Whether a mask on another grid is interpolated; else it is refused.

    Returns:
        ``mask`` itself on the same grid; the same voxels in another order where only the axes differ; else
        `resample_labels`.

    Raises:
        GeometryError: If the grids differ and ``resample`` is off, with both geometries; or if they do not overlap.
    """
    turned = turn_to_grid(mask, reference)
    if is_same_grid(turned, reference):
        return turned
    if not resample:
        msg = (
            f"The reference of case '{case_id}' and its prediction lie on different grids: {describe_grid(reference)} "
            f"against {describe_grid(mask)}. Resample the mask with --resample, or write it on the grid of the reference."
        )
        raise GeometryError(msg)
    return resample_labels(mask, reference, case_id=case_id)


def join_frames(reference: Volume, prediction: Volume) -> tuple[Volume, Volume]:
    """Two label maps of DICOM segmentations on a grid that holds the frames of both.

    A SEG may leave out empty frames, so that its grid ends where its structures do; what lies beyond is background.

    Args:
        reference: Label map ``(1, I, J, K)``.
        prediction: Label map.

    Returns:
        Both on one grid, with zeros where a side had no frames; as they came where the voxel centres of one do not lie
        on those of the other.
    """
    turned = turn_to_grid(prediction, reference)
    step = np.linalg.inv(reference.affine) @ turned.affine
    offset = np.rint(step[:3, 3]).astype(int)
    far_corner = np.array([*turned.spatial_shape, 1]) - [1, 1, 1, 0]
    moved = (step @ far_corner)[:3] - (far_corner[:3] + offset)
    if np.abs(step[:3, 3] - offset).max() > _LATTICE_TOLERANCE or np.abs(moved).max() > _LATTICE_TOLERANCE:
        return reference, prediction
    start = np.minimum(0, offset)
    stop = np.maximum(reference.spatial_shape, offset + turned.spatial_shape)
    affine = reference.affine.copy()
    affine[:3, 3] = (reference.affine @ [*start, 1])[:3]
    i, j, k = (stop - start).tolist()
    sides = []
    for volume, place in ((reference, -start), (turned, offset - start)):
        array = np.zeros((1, i, j, k), volume.array.dtype)
        a, b, c = place.tolist()
        length, width, height = volume.spatial_shape
        array[0, a : a + length, b : b + width, c : c + height] = volume.array[0]
        sides.append(Volume(array, affine))
    return sides[0], sides[1]


def resample_labels(mask: Volume, grid: Volume, *, case_id: str) -> Volume:
    """A label map at the voxel centres of any other grid, oblique ones included.

    The share of every value is interpolated linearly and the largest wins, so that borders do not move by up to half a
    voxel as with the nearest voxel. Outside the mask's own field of view is background.

    Args:
        mask: Label map ``(1, I, J, K)``.
        grid: Gives affine and shape.
        case_id: For messages.

    Returns:
        Same dtype; of equal shares the smaller value wins.

    Raises:
        GeometryError: If no voxel centre of the grid lies in the mask's field of view.
    """
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(mask.affine) @ grid.affine

    def interpolate(share: np.ndarray, outside: float) -> np.ndarray:
        return affine_transform(  # type: ignore[no-any-return]
            share, matrix[:3, :3], matrix[:3, 3], grid.spatial_shape, np.float32, 1, "grid-constant", outside
        )

    labels = mask.array[0]
    if not interpolate(np.ones(labels.shape, np.float32), 0.0).any():
        msg = (
            f"The reference of case '{case_id}' and its prediction do not overlap anywhere: {describe_grid(grid)} against "
            f"{describe_grid(mask)}. Are they of one patient?"
        )
        raise GeometryError(msg)
    best = interpolate((labels == 0).astype(np.float32), 1.0)
    winners = np.zeros(grid.spatial_shape, labels.dtype)
    for value in np.unique(labels[labels != 0]).tolist():
        share = interpolate((labels == value).astype(np.float32), 0.0)
        is_better = share > best
        best[is_better] = share[is_better]
        winners[is_better] = value
    return Volume(winners[None], grid.affine)
