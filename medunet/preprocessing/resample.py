"""Label maps and logits from one grid to another: separable linear interpolation, then the winner.

Nearest-neighbour interpolation of labels moves borders by up to half a voxel. Interpolating every class linearly and
taking the largest does not, and because the grids differ only by axis order, flips, scale and shift, it is three
one-dimensional interpolations. Classes are handled one by one with a running winner, so memory does not grow with
their number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from medunet.errors import GeometryError
from medunet.volume import Affine, Shape3, Volume


def resample_label_map(label_map: Volume, target_affine: Affine, target_shape: Shape3) -> Volume:
    """A label map on another grid; voxels outside the source take the nearest source voxel's labels.

    Args:
        label_map: ``(1, I, J, K)`` of an integer type.
        target_affine: RAS+ mm; its axes run along the source's axes, in any order and direction.
        target_shape: ``(I, J, K)``.

    Returns:
        Same dtype; the smaller value wins a tie.
    """
    values = np.unique(label_map.array)
    source = torch.from_numpy(np.ascontiguousarray(label_map.array[0]))
    classes = ((source == int(value)).float() for value in values)
    winners = resample_winner(classes, label_map.affine, target_affine, target_shape)
    return Volume(values[winners.numpy()][None].astype(label_map.array.dtype), np.asarray(target_affine))


def resample_winner(
    classes: Iterable[Tensor], source_affine: Affine, target_affine: Affine, target_shape: Shape3
) -> Tensor:
    """Index of the class with the largest interpolated value.

    Args:
        classes: Score maps ``(I, J, K)`` on the source grid, one after the other.
        source_affine: Of the score maps.
        target_affine: Of the result.
        target_shape: Of the result.

    Returns:
        ``int16`` tensor ``target_shape`` on the CPU; the first of equals wins.
    """
    best: Tensor | None = None
    winners = torch.zeros(target_shape, dtype=torch.int16)
    for index, scores in enumerate(classes):
        resampled = resample_linear(scores, source_affine, target_affine, target_shape)
        if best is None:
            best = resampled
            continue
        is_better = resampled > best
        torch.where(is_better, resampled, best, out=best)
        winners.masked_fill_(is_better.cpu(), index)
    return winners


def resample_linear(scores: Tensor, source_affine: Affine, target_affine: Affine, target_shape: Shape3) -> Tensor:
    """One map ``(I, J, K)`` on another grid, by linear interpolation, clamped at the borders."""
    axes, scales, shifts = compute_axis_mapping(source_affine, target_affine)
    moved = scores.permute(*axes)
    for axis in range(3):
        positions = torch.arange(target_shape[axis], dtype=torch.float64) * scales[axis] + shifts[axis]
        moved = _interpolate_axis(moved, axis, positions)
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


def _interpolate_axis(scores: Tensor, axis: int, positions: Tensor) -> Tensor:
    length = scores.shape[axis]
    positions = positions.clamp(0, length - 1)
    lower = positions.floor().long()
    upper = (lower + 1).clamp(max=length - 1)
    weight_shape = [1, 1, 1]
    weight_shape[axis] = -1
    # Positions stay on the CPU until here: Apple's GPU has no float64.
    weight = (positions - lower).to(scores.dtype).reshape(weight_shape).to(scores.device)
    lower, upper = lower.to(scores.device), upper.to(scores.device)
    return torch.lerp(scores.index_select(axis, lower), scores.index_select(axis, upper), weight)
