"""Where the patient is within a volume: the box outside of which nothing is worth computing."""

from __future__ import annotations

import numpy as np

from medunet.volume import Array

BODY_THRESHOLD_HU = -500.0


def compute_body_mask(image: Array, modality: str) -> Array:
    """Voxels that may belong to the patient, ``(I, J, K)``: denser than lung in CT, nonzero in any channel in MR."""
    mask: Array = np.any(image > BODY_THRESHOLD_HU if modality == "CT" else image != 0, axis=0)
    return mask


def compute_body_box(image: Array, modality: str) -> tuple[slice, slice, slice]:
    """The smallest box around the body.

    Args:
        image: ``(C, I, J, K)``, in HU for CT.
        modality: ``"CT"`` or ``"MR"``.

    Returns:
        One slice per axis; the whole volume when nothing looks like a body.

    Example:
        >>> image = np.full((1, 5, 6, 7), -1000.0)
        >>> image[0, 1:3, 2:6, 3] = 40.0
        >>> compute_body_box(image, "CT")
        (slice(1, 3, None), slice(2, 6, None), slice(3, 4, None))
    """
    return _compute_box(compute_body_mask(image, modality))


def compute_nonzero_box(image: Array) -> tuple[slice, slice, slice]:
    """The smallest box around the voxels that are nonzero in any channel, as nnU-Net crops; everything when none is."""
    return _compute_box(np.any(image != 0, axis=0))


def _compute_box(mask: Array) -> tuple[slice, slice, slice]:
    edges = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        edges.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, mask.shape[axis]))
    i, j, k = edges
    return i, j, k
