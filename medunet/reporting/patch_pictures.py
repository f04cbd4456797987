"""Patches as the network sees them while it learns, after augmentation, with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medunet.reporting.planes import PLANES, cut_plane, find_flat_plane, measure_areas
from medunet.reporting.thumbnail import draw_slice, encode_small, to_grey
from medunet.reporting.window import choose_window
from medunet.volume import Array, Spacing


@dataclass(frozen=True, kw_only=True)
class PatchPicture:
    """One patch.

    Attributes:
        case_id: That it was cut from.
        jpeg: The slice that shows most labels.
    """

    case_id: str
    jpeg: bytes


def draw_patch(patch: Array, codes: Array, labels: Mapping[str, Sequence[int]], spacing: Spacing) -> bytes:
    """Draw one patch, from its 1st to its 99th percentile, as a JPEG of at most 30 kB.

    Args:
        patch: First channel ``(I, J, K)``, axes along right, anterior and superior before it was mirrored or turned.
        codes: Of the same voxels.
        labels: Name -> codes, all labels of the task.
        spacing: mm.
    """
    i, j, k = patch.shape
    plane = find_flat_plane((i, j, k)) or PLANES[0]
    index = measure_areas(codes, labels, (i, j, k)).choose_slice(plane.axis)
    pixels, cut = cut_plane(patch, plane, index), cut_plane(codes, plane, index)
    pixel_mm = spacing[plane.column_axis], spacing[plane.row_axis]
    return encode_small(draw_slice(to_grey(pixels, choose_window(patch, "MR")), cut, labels, pixel_mm))
