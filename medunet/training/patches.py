r"""One patch: the box of the case that its change needs is read, and becomes the patch on the device that trains.

```text
case  +---------------------------+
      |   box: read, no more      |
      |     +--------------+      |        patch
      |     |  /\          |      |      +--------+
      |     | /  \  turned,| -------->   |        |
      |     |/    \ bent   |      |      |        |
      |     |\    /        |      |      +--------+
      |     | \  /         |      |
      |     |  \/          |      |
      |     +--------------+      |
      +---------------------------+
```
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation import PatchChange, SpatialChange, apply_spatial, compute_source_offsets, warp_labels
from medunet.preprocessing import Box, StoredCase
from medunet.tasks import Task
from medunet.volume import Array, Shape3, Spacing

Start = tuple[int, int, int]


def choose_start(case: StoredCase, patch_size: Shape3, code: int | None, rng: np.random.Generator) -> Start:
    """First voxel of a patch, which lies inside the case, or around it where the case is smaller.

    Args:
        case: To take it from.
        patch_size: Of the patch.
        code: Of a label that the patch shall be centred on, as far as it stays inside; None for any place.
        rng: Decides.
    """
    room = [length - size for length, size in zip(case.shape, patch_size, strict=True)]
    start = [int(rng.integers(min(0, n), max(0, n) + 1)) for n in room]
    if code is not None:
        voxels = case.foreground[code]
        voxel = voxels[int(rng.integers(len(voxels)))].tolist()
        start = [
            min(max(v - size // 2, 0), n) if n > 0 else first
            for v, size, n, first in zip(voxel, patch_size, room, start, strict=True)
        ]
    i, j, k = start
    return i, j, k


def read_patch(
    case: StoredCase, start: Start, change: SpatialChange, patch_size: Shape3, spacing: Spacing, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The patch, changed in space but not mirrored.

    Args:
        case: To read from.
        start: First voxel of the unchanged patch.
        change: What was drawn.
        patch_size: Of the patch.
        spacing: Of the case, mm.
        device: Where the voxels are interpolated, and stay.

    Returns:
        Image ``(C, I, J, K)`` float32 and codes ``(I, J, K)`` uint8. Outside the case, the image is its ``fill`` and the
        code 0.
    """
    offsets = compute_source_offsets(change, patch_size, spacing, device=device)
    if offsets is None:
        return crop_patch(case, start, patch_size, device)
    centre = [first + (size - 1) / 2 for first, size in zip(start, patch_size, strict=True)]
    box = compute_source_box(change, centre, patch_size, spacing, case.shape)
    image, codes = case.read_box(box, device)
    positions = [offset + c for offset, c in zip(offsets.unbind(-1), centre, strict=True)]
    local = torch.stack([where - edge.start for where, edge in zip(positions, box, strict=True)], dim=-1)
    warped, warped_codes = apply_spatial(image, local, "bilinear"), warp_labels(codes, local)
    is_outside = torch.zeros_like(positions[0], dtype=torch.bool)
    for where, length in zip(positions, case.shape, strict=True):
        is_outside |= (where < -0.5) | (where > length - 0.5)
    for channel, fill in zip(warped, case.fill.tolist(), strict=True):
        channel.masked_fill_(is_outside, fill)
    return warped, warped_codes.masked_fill(is_outside, 0)


def compute_source_box(
    change: SpatialChange, centre: Sequence[float], patch_size: Shape3, spacing: Spacing, shape: Shape3
) -> Box:
    """The voxels of a case between which a changed patch lies, known before any coordinate is computed.

    A turned patch reaches as far as its corners; no point is displaced further than the control points around it, because
    the weights of a B-spline are positive and sum to 1.

    Args:
        change: With a matrix or control points.
        centre: Of the patch, in voxels of the case.
        patch_size: Of the patch.
        spacing: Of the case, mm.
        shape: Of the case.

    Returns:
        A box inside the case, never empty: a patch beyond the border takes the border's voxels.
    """
    matrix: Array = np.eye(3) if change.matrix is None else change.matrix
    reach = np.abs(matrix) @ ((np.array(patch_size) - 1) / 2)
    low, high = np.array(centre) - reach, np.array(centre) + reach
    if change.control_mm is not None:
        displacement = change.control_mm.reshape(-1, 3) / np.array(spacing)
        low, high = low + displacement.min(axis=0), high + displacement.max(axis=0)
    # Float32 coordinates may round across a voxel.
    first = np.clip(np.floor(low - 1e-3), 0, np.array(shape) - 1).astype(int).tolist()
    last = np.clip(np.ceil(high + 1e-3), 0, np.array(shape) - 1).astype(int).tolist()
    i, j, k = (slice(a, b + 1) for a, b in zip(first, last, strict=True))
    return i, j, k


def crop_patch(
    case: StoredCase, start: Start, patch_size: Shape3, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """A box that may reach over the case's borders; what lies outside is filled."""
    i, j, k = (
        slice(min(max(first, 0), length), max(min(first + n, length), 0))
        for first, n, length in zip(start, patch_size, case.shape, strict=True)
    )
    image, codes = case.read_box((i, j, k), device)
    before = [edge.start - first for edge, first in zip((i, j, k), start, strict=True)]
    after = [first + n - edge.stop for edge, first, n in zip((i, j, k), start, patch_size, strict=True)]
    if not any(before + after):
        return image, codes
    padding = [n for axis in (2, 1, 0) for n in (before[axis], after[axis])]  # F.pad starts with the last axis
    fills = case.fill.tolist()
    channels = [F.pad(channel, padding, value=fill) for channel, fill in zip(image, fills, strict=True)]
    return torch.stack(channels), F.pad(codes, padding, value=0)


def mirror_patch(
    image: Tensor, codes: Tensor, axes: Sequence[int], mirrored_codes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Swap the two ends of axes; with axis 0, left and right, the labels of the two sides are swapped too.

    Args:
        image: ``(C, I, J, K)``.
        codes: ``(I, J, K)`` uint8.
        axes: To mirror.
        mirrored_codes: `compute_mirrored_codes`, on the same device.
    """
    if not axes:
        return image, codes
    codes = codes.flip(tuple(axes))
    if 0 in axes and mirrored_codes is not None:
        codes = mirrored_codes[codes.long()]
    return image.flip([1 + axis for axis in axes]), codes


def compute_mirrored_codes(task: Task) -> Tensor | None:
    """Code -> code after swapping left and right, ``(256,)`` uint8; None where nothing is paired."""
    codes = torch.arange(256, dtype=torch.uint8)
    names = list(task.labels)
    for left, right in task.laterality:
        if task.has_regions:
            pairs = zip(task.labels[left], task.labels[right], strict=True)
            swaps = [(task.all_values.index(a) + 1, task.all_values.index(b) + 1) for a, b in pairs]
        else:
            swaps = [(names.index(left) + 1, names.index(right) + 1)]
        for a, b in swaps:
            codes[a], codes[b] = b, a
    return codes if task.laterality else None


def read_patch_with_peers(
    case: StoredCase, start: Start, change: PatchChange, patch_size: Shape3, spacing: Spacing
) -> tuple[Tensor, Tensor]:
    """The patch changed in space and intensity by MONAI and TorchIO, on the CPU, not mirrored.

    Args:
        case: To read from.
        start: First voxel of the unchanged patch.
        change: Drawn for a patch of `medunet.augmentation.monai_policy.compute_margin_size`.
        patch_size: Of the patch.
        spacing: Of the case, mm.
    """
    from medunet.augmentation.monai_policy import compute_margin_size
    from medunet.augmentation.peers import apply_intensity_with_peers, apply_spatial_with_peers

    large = compute_margin_size(patch_size)
    margin = [(n - size) // 2 for n, size in zip(large, patch_size, strict=True)]
    i, j, k = (first - extra for first, extra in zip(start, margin, strict=True))
    image, codes = apply_spatial_with_peers(*crop_patch(case, (i, j, k), large), change.spatial, spacing)
    inner = tuple(slice(extra, extra + size) for extra, size in zip(margin, patch_size, strict=True))
    patch = apply_intensity_with_peers(image[(slice(None), *inner)].clone(), change.intensity)
    return patch, codes[inner].contiguous()
