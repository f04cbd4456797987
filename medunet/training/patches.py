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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation import (
    PatchChange,
    SpatialChange,
    apply_spatial,
    apply_zoom,
    compute_source_offsets,
    compute_zoom_offsets,
    warp_labels,
    zoom_labels,
)
from medunet.preprocessing import Box, NeighbourSlices, StoredCase
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
    source = _locate(case.shape, start, change, patch_size, spacing, device)
    if source is None:
        return crop_patch(case, start, patch_size, device)
    image, codes = case.read_box(source.box, device)
    warped, warped_codes = source.interpolate(image), source.pick(codes)
    if source.is_outside is None:
        return warped, warped_codes
    for channel, fill in zip(warped, case.fill.tolist(), strict=True):
        channel.masked_fill_(source.is_outside, fill)
    return warped, warped_codes.masked_fill_(source.is_outside, 0)


def read_slices(
    case: StoredCase,
    start: Start,
    change: SpatialChange,
    patch_size: Shape3,
    spacing: Spacing,
    device: torch.device,
    neighbours: NeighbourSlices,
) -> tuple[Tensor, Tensor]:
    """A patch of one slice with those on either side, all changed in the same way, so that they stay neighbours.

    Args:
        case: To read from.
        start: First voxel of the unchanged patch, in the middle slice.
        change: What was drawn for the patch of one slice: it moves nothing across slices.
        patch_size: Of the patch, with one voxel along the slice axis.
        spacing: Of the case, mm.
        device: Where the voxels are interpolated, and stay.
        neighbours: How many slices, along which axis.

    Returns:
        Image ``(C, I, J, K)`` with all slices along the slice axis, see `medunet.preprocessing.fold_slices`, and the codes
        ``(I, J, K)`` of the middle slice alone.
    """
    axis = neighbours.axis
    images: dict[int, Tensor] = {}
    images[start[axis]], codes = read_patch(case, start, change, patch_size, spacing, device)
    slices = neighbours.list_slices(start[axis], case.shape[axis])
    for index in slices:
        if index not in images:
            i, j, k = (index if other == axis else first for other, first in enumerate(start))
            images[index], _ = read_patch(case, (i, j, k), change, patch_size, spacing, device)
    return torch.cat([images[index] for index in slices], dim=1 + axis), codes


def read_previous_patch(
    case: StoredCase, start: Start, change: SpatialChange, patch_size: Shape3, spacing: Spacing, device: torch.device
) -> Tensor:
    """The labels that another network found, ``(I, J, K)`` uint8, as `read_patch` changes those that people drew."""
    source = _locate(case.shape, start, change, patch_size, spacing, device)
    if source is None:
        return crop_previous_patch(case, start, patch_size, device)
    codes = source.pick(case.read_previous_box(source.box, device))
    return codes if source.is_outside is None else codes.masked_fill_(source.is_outside, 0)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where the voxels of a changed patch come from.

    Attributes:
        box: Of the case, to be read.
        places: Voxel positions within the box: of every voxel ``(I, J, K, 3)``, or of a patch that is only zoomed, along each
            axis.
        is_outside: Whether they lie outside the case, of a shape that spreads to ``(I, J, K)``; None where none does.
    """

    box: Box
    places: Tensor | list[Tensor]
    is_outside: Tensor | None

    def interpolate(self, image: Tensor) -> Tensor:
        if isinstance(self.places, Tensor):
            return apply_spatial(image, self.places, "bilinear")
        return apply_zoom(image, self.places)

    def pick(self, codes: Tensor) -> Tensor:
        if isinstance(self.places, Tensor):
            return warp_labels(codes, self.places)
        return zoom_labels(codes, self.places)


def _locate(
    shape: Shape3, start: Start, change: SpatialChange, patch_size: Shape3, spacing: Spacing, device: torch.device
) -> _Source | None:
    """None where a plain crop does."""
    # On a GPU one interpolation of everything is over before three have begun.
    offsets = compute_zoom_offsets(change, patch_size) if device.type == "cpu" else None
    places = compute_source_offsets(change, patch_size, spacing, device=device) if offsets is None else offsets
    if places is None:
        return None
    centre = [first + (size - 1) / 2 for first, size in zip(start, patch_size, strict=True)]
    box = compute_source_box(change, centre, patch_size, spacing, shape)
    along = places.unbind(-1) if isinstance(places, Tensor) else _spread(places)
    is_outside = None
    for axis, (edge, length) in enumerate(zip(box, shape, strict=True)):
        position = along[axis].add_(centre[axis] - edge.start)
        # A box that ends before the case does holds all positions on that side.
        if edge.start == 0:
            is_outside = _add_where(is_outside, position < -0.5)
        if edge.stop == length:
            is_outside = _add_where(is_outside, position > length - edge.start - 0.5)
    return _Source(box=box, places=places, is_outside=is_outside)


def _spread(positions: Sequence[Tensor]) -> list[Tensor]:
    """The same numbers ``(I, 1, 1)``, ``(1, J, 1)`` and ``(1, 1, K)``."""
    i, j, k = positions
    return [i[:, None, None], j[:, None], k]


def _add_where(mask: Tensor | None, more: Tensor) -> Tensor:
    return more if mask is None else mask | more


def compute_source_box(
    change: SpatialChange, centre: Sequence[float], patch_size: Shape3, spacing: Spacing, shape: Shape3
) -> Box:
    """The voxels of a case between which a changed patch lies, known before any coordinate is computed.

    A turned patch reaches as far as its corners, and a bent one as far again as its largest displacement can be.

    Args:
        change: With a matrix or a deformation.
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
    moved = change.limit_displacement_voxels(patch_size, spacing)
    low, high = low + moved[0], high + moved[1]
    # Float32 coordinates may round across a voxel.
    first = np.clip(np.floor(low - 1e-3), 0, np.array(shape) - 1).astype(int).tolist()
    last = np.clip(np.ceil(high + 1e-3), 0, np.array(shape) - 1).astype(int).tolist()
    i, j, k = (slice(a, b + 1) for a, b in zip(first, last, strict=True))
    return i, j, k


def crop_patch(
    case: StoredCase, start: Start, patch_size: Shape3, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """A box that may reach over the case's borders; what lies outside is filled."""
    box, padding = _clip(case.shape, start, patch_size)
    image, codes = case.read_box(box, device)
    if not any(padding):
        return image, codes
    fills = case.fill.tolist()
    channels = [F.pad(channel, padding, value=fill) for channel, fill in zip(image, fills, strict=True)]
    return torch.stack(channels), F.pad(codes, padding, value=0)


def crop_previous_patch(
    case: StoredCase, start: Start, patch_size: Shape3, device: torch.device | None = None
) -> Tensor:
    """What another network found in a box that may reach over the case's borders; outside, it found nothing."""
    box, padding = _clip(case.shape, start, patch_size)
    return F.pad(case.read_previous_box(box, device), padding, value=0)


def _clip(shape: Shape3, start: Start, patch_size: Shape3) -> tuple[Box, list[int]]:
    """The part of a box that lies within the case, and the voxels that are missing on its sides, for `F.pad`."""
    i, j, k = (
        slice(min(max(first, 0), length), max(min(first + n, length), 0))
        for first, n, length in zip(start, patch_size, shape, strict=True)
    )
    before = [edge.start - first for edge, first in zip((i, j, k), start, strict=True)]
    after = [first + n - edge.stop for edge, first, n in zip((i, j, k), start, patch_size, strict=True)]
    return (i, j, k), [n for axis in (2, 1, 0) for n in (before[axis], after[axis])]  # F.pad starts with the last axis


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
    return image.flip([1 + axis for axis in axes]) if axes else image, mirror_codes(codes, axes, mirrored_codes)


def mirror_codes(codes: Tensor, axes: Sequence[int], mirrored_codes: Tensor | None) -> Tensor:
    """The codes of `mirror_patch`."""
    if not axes:
        return codes
    codes = codes.flip(tuple(axes))
    return mirrored_codes[codes.long()] if 0 in axes and mirrored_codes is not None else codes


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
    from medunet.augmentation.peers import apply_intensity_with_peers, apply_spatial_with_peers

    first, large, inner = _add_margin(start, patch_size)
    image, codes = apply_spatial_with_peers(*crop_patch(case, first, large), change.spatial, spacing)
    patch = apply_intensity_with_peers(image[(slice(None), *inner)].clone(), change.intensity)
    return patch, codes[inner].contiguous()


def read_previous_patch_with_peers(
    case: StoredCase, start: Start, change: PatchChange, patch_size: Shape3, spacing: Spacing
) -> Tensor:
    """The labels that another network found, as `read_patch_with_peers` changes those that people drew."""
    from medunet.augmentation.peers import apply_spatial_with_peers

    first, large, inner = _add_margin(start, patch_size)
    codes = crop_previous_patch(case, first, large)
    no_image = torch.zeros((1, *large))
    _, codes = apply_spatial_with_peers(no_image, codes, change.spatial, spacing)
    return codes[inner].contiguous()


def _add_margin(start: Start, patch_size: Shape3) -> tuple[Start, Shape3, Box]:
    """First voxel and size of the larger patch that is changed, and where in it the patch lies."""
    from medunet.augmentation.monai_policy import compute_margin_size

    large = compute_margin_size(patch_size)
    margin = [(n - size) // 2 for n, size in zip(large, patch_size, strict=True)]
    first_i, first_j, first_k = (first - extra for first, extra in zip(start, margin, strict=True))
    i, j, k = (slice(extra, extra + size) for extra, size in zip(margin, patch_size, strict=True))
    return (first_i, first_j, first_k), large, (i, j, k)
