"""Tiles in which nothing can be: air around the patient.

The rule is made to keep a tile when in doubt. A tile is left out only if it and a margin around it hold nothing but air, so every
voxel of the body is seen by all the tiles that would have seen it, and gets the same label. Air that the body encloses within
a plane, as in the lungs and the bowel, counts as body. What lies in the air around it becomes background where no tile is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from medunet.inference.tiling import Box
from medunet.planning import BODY_MARGIN_MM, compute_body_mask
from medunet.preprocessing import compute_axis_mapping
from medunet.tasks import Modality, is_picture
from medunet.volume import Array, Volume

AIR_SHARE_MR = 0.03
"""Of the 99th percentile: what is darker in every channel of an MR image may be air. Noise around a head lies near 1 %."""
_EDGE = 8
"""Voxels along the edge of the cubes in which air is looked for: a scan becomes 500 times smaller."""
_SAMPLES = 200_000
_FRAME_SHARE = 0.002
"""Of all voxels that hold the largest value, from which on it is no tissue but a frame or text."""


def find_needed_tiles(
    scan: Volume, grid: Volume, modality: Modality, *, margin_mm: float = BODY_MARGIN_MM
) -> Callable[[Box], bool] | None:
    """Which tiles may hold a part of the patient.

    Args:
        scan: ``(C, I, J, K)`` as it was read, in HU for CT.
        grid: Of the tiles; its axes run along the scan's.
        modality: CT: tissue is denser than -500 HU. MR: brighter than `AIR_SHARE_MR` of the bright voxels in any channel.
            Pictures have no air.
        margin_mm: Looked at around every tile.

    Returns:
        Whether a box on the grid has to be computed; None where the image does not tell: pictures, MR with values below 0, or
        nothing that looks like a patient.
    """
    mask = _find_matter(scan.array, modality)
    if mask is None or not mask.any():
        return None
    blocks = _fill_holes(_summarize(mask))
    axes, scales, shifts = compute_axis_mapping(grid.affine, scan.affine)
    margins = [math.ceil(margin_mm / mm) for mm in scan.spacing]

    def is_needed(box: Box) -> bool:
        part = []
        for scan_axis in range(3):
            edge = box[axes[scan_axis]]
            ends = [(place - shifts[scan_axis]) / scales[scan_axis] for place in (edge.start - 0.5, edge.stop - 0.5)]
            first, last = math.floor(min(ends)) - margins[scan_axis], math.ceil(max(ends)) + margins[scan_axis]
            part.append(slice(max(0, first) // _EDGE, max(0, last) // _EDGE + 1))
        return bool(blocks[tuple(part)].any())

    return is_needed


def _find_matter(image: Array, modality: str) -> Array | None:
    if modality == "CT":
        return compute_body_mask(image, modality)
    if is_picture(modality) or image.min() < 0:
        return None
    mask = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        sample = channel.reshape(-1)[:: max(1, channel.size // _SAMPLES)]
        mask |= channel > AIR_SHARE_MR * _find_bright(sample)
    return mask


def _find_bright(sample: Array) -> float:
    """How bright tissue is: the 99th percentile, without a frame or text of the largest value."""
    largest = sample.max()
    if np.mean(sample == largest) > _FRAME_SHARE and (rest := sample[sample < largest]).size:
        sample = rest
    return float(np.percentile(sample, 99))


def _fill_holes(blocks: Array) -> Array:
    """With what is enclosed within a plane, whichever way it is cut: scans end in the middle of the lungs."""
    from scipy.ndimage import binary_fill_holes

    filled = blocks.copy()
    for axis in range(3):
        for number in range(blocks.shape[axis]):
            plane = tuple(number if other == axis else slice(None) for other in range(3))
            filled[plane] |= binary_fill_holes(blocks[plane])
    return filled


def _summarize(mask: Array) -> Array:
    """Whether there is anything in each cube of `_EDGE` voxels."""
    for axis in range(3):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], _EDGE), axis=axis)
    return mask
