"""Label maps and logits from one grid to another: separable linear interpolation, then the winner.

Nearest-neighbour interpolation of labels moves borders by up to half a voxel. Interpolating every class linearly and
taking the largest does not, and because the grids differ only by axis order, flips, scale and shift, it is three
one-dimensional interpolations. Classes are handled one by one with a running winner, so memory does not grow with
their number; a label is handled only within its own box, so time hardly does either.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from medunet.errors import GeometryError
from medunet.volume import Affine, Shape3, Spacing, Volume

ANISOTROPY = 3.0 * (1 + 1e-5)
"""Voxels of 1 x 1 x 3 mm are common, and the rounding of an affine must not decide whether they are beyond 3."""
_HALFWAY = 1e-3
"""Voxels by which a position may lie before the middle of two and still count as halfway."""


def find_coarse_axis(source_spacing: Spacing, target_spacing: Spacing) -> int | None:
    """The axis along which slices are so thick that nothing between them should be made up.

    nnU-Net's rule (doi:10.1038/s41592-020-01008-z): one spacing is more than 3 x the finest, in the source or else in
    the target; where two axes are equally coarse, none is.

    Example:
        >>> find_coarse_axis((0.5, 0.5, 3.6), (0.6, 0.6, 3.0)), find_coarse_axis((1.0, 1.0, 2.0), (1.0, 1.0, 1.0))
        (2, None)
    """
    for spacing in (source_spacing, target_spacing):
        if max(spacing) > ANISOTROPY * min(spacing):
            coarse = [axis for axis in range(3) if spacing[axis] > (1 - 1e-3) * max(spacing)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample_label_map(
    label_map: Volume, target_affine: Affine, target_shape: Shape3, *, nearest_axis: int | None = None
) -> Volume:
    """A label map on another grid; voxels outside the source take the nearest source voxel's labels.

    Args:
        label_map: ``(1, I, J, K)`` of an integer type.
        target_affine: RAS+ mm; its axes run along the source's axes, in any order and direction.
        target_shape: ``(I, J, K)``.
        nearest_axis: Target axis along which the nearest voxel is taken instead (`find_coarse_axis`).

    Returns:
        Same dtype; the smaller value wins a tie.
    """
    axes, scales, shifts = compute_axis_mapping(label_map.affine, target_affine)
    values = np.unique(label_map.array)
    codes = np.searchsorted(values, label_map.array[0].transpose(axes))  # numbered, so that they index `values`
    source = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int32))
    positions = [torch.arange(target_shape[a], dtype=torch.float64) * scales[a] + shifts[a] for a in range(3)]
    if nearest_axis is not None:
        source = pick_nearest(source, nearest_axis, positions[nearest_axis])
        positions[nearest_axis] = torch.arange(target_shape[nearest_axis], dtype=torch.float64)
    winners = _find_winners(source, len(values), positions)
    return Volume(values[winners.numpy()][None].astype(label_map.array.dtype), np.asarray(target_affine))


def _find_winners(source: Tensor, num_classes: int, positions: list[Tensor]) -> Tensor:
    """The class with the largest interpolated share, each class only where it has any."""
    from scipy.ndimage import find_objects

    lengths = source.shape
    positions = [where.clamp(0, n - 1) for where, n in zip(positions, lengths, strict=True)]
    shape = [len(where) for where in positions]
    best = torch.zeros(shape)
    winners = torch.zeros(shape, dtype=torch.int32)
    for index, box in enumerate(find_objects(source.numpy() + 1, num_classes)):
        if box is None:  # its slices lie between those that were taken
            continue
        # One voxel around a class its share has fallen to 0, and 0 wins nowhere: the shares sum to 1.
        around = [slice(max(0, edge.start - 1), edge.stop + 1) for edge in box]
        inside = [
            torch.nonzero((where > edge.start - 1) & (where < edge.stop)).flatten()
            for where, edge in zip(positions, box, strict=True)
        ]
        if not all(len(where) for where in inside):
            continue
        target = tuple(slice(int(where[0]), int(where[-1]) + 1) for where in inside)
        shares = (source[tuple(around)] == index).float()
        for axis in range(3):
            shares = interpolate_axis(shares, axis, positions[axis][inside[axis]] - around[axis].start)
        is_better = shares > best[target]
        best[target] = torch.where(is_better, shares, best[target])
        winners[target] = winners[target].masked_fill(is_better, index)
    return winners


def find_winner(maps: Iterable[Tensor], shape: Shape3) -> Tensor:
    """Index of the map with the largest value at every voxel; two maps are in memory at a time.

    Args:
        maps: Each ``shape``, on any device; the first is overwritten.
        shape: ``(I, J, K)``.

    Returns:
        ``int16`` tensor ``shape`` on the CPU; the first of equals wins.
    """
    best: Tensor | None = None
    winners = torch.zeros(shape, dtype=torch.int16)
    for index, values in enumerate(maps):
        if best is None:
            best = values
            continue
        is_better = values > best
        torch.where(is_better, values, best, out=best)
        winners.masked_fill_(is_better.cpu(), index)
    return winners


def resample_linear(scores: Tensor, source_affine: Affine, target_affine: Affine, target_shape: Shape3) -> Tensor:
    """One map ``(I, J, K)`` on another grid, by linear interpolation, clamped at the borders."""
    axes, scales, shifts = compute_axis_mapping(source_affine, target_affine)
    moved = scores.permute(*axes)
    for axis in range(3):
        positions = torch.arange(target_shape[axis], dtype=torch.float64) * scales[axis] + shifts[axis]
        moved = interpolate_axis(moved, axis, positions)
    return moved.contiguous()


def compute_axis_mapping(
    source_affine: Affine, target_affine: Affine
) -> tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...]]:
    """How the axes of two grids correspond.

    Returns:
        ``axes``, ``scales`` and ``shifts``: index ``n`` along target axis ``a`` lies at index
        ``scales[a] * n + shifts[a]`` along source axis ``axes[a]``.

    Raises:
        GeometryError: If the grids are rotated against each other by more than rounding.
    """
    matrix = np.linalg.inv(source_affine) @ target_affine
    axes = tuple(int(axis) for axis in np.abs(matrix[:3, :3]).argmax(axis=0))
    scales = tuple(float(matrix[axes[axis], axis]) for axis in range(3))
    rest = matrix[:3, :3].copy()
    rest[list(axes), range(3)] = 0.0
    if sorted(axes) != [0, 1, 2] or np.abs(rest).max() > 1e-2 * min(abs(scale) for scale in scales):
        msg = "The two grids are rotated against each other; only flips, axis orders, spacings and shifts can differ."
        raise GeometryError(msg)
    i, j, k = axes
    return (i, j, k), scales, tuple(float(matrix[axis, 3]) for axis in axes)


def interpolate_axis(scores: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Linear interpolation along one axis, clamped at the borders.

    Args:
        scores: Of any number of axes.
        axis: Along which.
        positions: ``(N,)`` in voxels, on the CPU.

    Returns:
        As ``scores``, with ``N`` voxels along the axis.
    """
    length = scores.shape[axis]
    positions = positions.clamp(0, length - 1)
    lower = positions.floor().long()
    upper = (lower + 1).clamp(max=length - 1)
    weight_shape = [1] * scores.ndim
    weight_shape[axis] = -1
    # Positions stay on the CPU until here: Apple's GPU has no float64.
    weight = (positions - lower).to(scores.dtype).reshape(weight_shape).to(scores.device)
    lower, upper = lower.to(scores.device), upper.to(scores.device)
    return torch.lerp(scores.index_select(axis, lower), scores.index_select(axis, upper), weight)


def pick_nearest(scores: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Whole voxels along one axis; halfway, the further one.

    Halfway is common: from slices of 2.5 mm to 5 mm every position is. Rounding errors of the affines must not decide
    there, or an image and its labels, which come from different boxes of the scan, would show different slices.
    """
    nearest = (positions + 0.5 + _HALFWAY).floor().long().clamp(0, scores.shape[axis] - 1)
    return scores.index_select(axis, nearest.to(scores.device))
