"""Where the patient is within a volume: the box outside of which nothing is worth computing."""

from __future__ import annotations

import math

import numpy as np

from medunet.tasks import is_picture
from medunet.volume import Array, Spacing

BODY_THRESHOLD_HU = -500.0
BODY_MARGIN_MM = 8.0
"""Kept around the body's box when a scan is cropped to it."""


def compute_body_mask(image: Array, modality: str) -> Array:
    """Voxels that may belong to the patient, ``(I, J, K)``: denser than lung in CT, nonzero in any channel in MR, all of a
    picture.
    """
    if is_picture(modality):
        return np.ones(image.shape[1:], dtype=bool)
    mask: Array = np.any(image > BODY_THRESHOLD_HU if modality == "CT" else image != 0, axis=0)
    return mask


def compute_body_box(image: Array, modality: str) -> tuple[slice, slice, slice]:
    """The smallest box around the body.

    Args:
        image: ``(C, I, J, K)``, in HU for CT.
        modality: Of the task.

    Returns:
        One slice per axis; the whole volume when nothing looks like a body.

    Example:
        >>> image = np.full((1, 5, 6, 7), -1000.0)
        >>> image[0, 1:3, 2:6, 3] = 40.0
        >>> compute_body_box(image, "CT")
        (slice(1, 3, None), slice(2, 6, None), slice(3, 4, None))
    """
    return _compute_box(compute_body_mask(image, modality))


def compute_crop_box(image: Array, modality: str, spacing: Spacing) -> tuple[slice, slice, slice]:
    """What preprocessing keeps of a scan: the body's box and `BODY_MARGIN_MM` around it, as far as the scan goes.

    Args:
        image: ``(C, I, J, K)``, in HU for CT.
        modality: Of the task.
        spacing: mm along its axes.
    """
    box = []
    for edge, mm, length in zip(compute_body_box(image, modality), spacing, image.shape[1:], strict=True):
        margin = math.ceil(BODY_MARGIN_MM / mm)
        box.append(slice(max(0, edge.start - margin), min(length, edge.stop + margin)))
    i, j, k = box
    return i, j, k


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
