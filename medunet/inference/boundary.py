"""Which class wins on a finer grid, interpolated only where it is in question.

Where all eight neighbours of a point have the same winner, linear interpolation cannot change it: a mean of eight vectors
whose largest entry is the same one has it there too. So the winners of the neighbours are compared first, as bytes, and
logits are interpolated only along borders. Products and sums are rounded one by one, and rounding never turns the order of two
numbers, so this holds for the computed means as well as for the exact ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MIXED = 255
"""In a map of winners: the neighbours do not agree. Classes have smaller numbers (`medunet.tasks.encoding`)."""
_CHUNK = 2**16
"""Points interpolated at a time, so that what is picked up for them stays in the cache."""
_SAME_POSITION = 1e-5
"""Voxels: positions closer to a voxel lie on it, so that the rounding of two affines makes no border."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Points along one axis, between two voxels each.

    Attributes:
        lower: ``(N,)`` int64: the voxel in front of each point.
        upper: The one behind it; the same where the point lies on a voxel, and at the border.
        weight: ``(N,)`` float32 share of ``upper``.
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def lie_on_voxels(self) -> bool:
        """Whether nothing has to be interpolated."""
        return torch.equal(self.lower, self.upper)


def snap_places(places: Tensor, length: int) -> Tensor:
    """Voxel positions along a line, those beyond it moved to its ends, those that all but lie on a voxel onto it.

    Args:
        places: ``(N,)`` float64.
        length: Voxels of the line.
    """
    rounded = places.round()
    return torch.where((places - rounded).abs() < _SAME_POSITION, rounded, places).clamp(0, length - 1)


def build_positions(places: Tensor, device: torch.device) -> Positions:
    """Points along a line.

    Args:
        places: ``(N,)`` float64 from `snap_places`, on the CPU: Apple's GPU has no float64.
        device: Where the result is needed.
    """
    lower = places.floor()
    upper = places.ceil()  # not one more than `lower`: on a voxel, its neighbour has no say
    return Positions(
        lower=lower.long().to(device), upper=upper.long().to(device), weight=(places - lower).float().to(device)
    )


def find_winners_between(logits: Tensor, positions: Sequence[Positions]) -> Tensor:
    """The class with the largest linearly interpolated logit at every point of a grid.

    Args:
        logits: ``(classes, I, J, K)`` float32, at most 255 classes; every class contiguous in memory.
        positions: Of the points along I, J and K, on the device of ``logits``.

    Returns:
        uint8 of the lengths of ``positions``; the first of equals wins, as in `find_winners`.
    """
    winners = _pick_agreed(find_winners(logits), positions)
    flat = winners.view(-1)
    for chunk in _list_mixed(flat):
        corners = _Corners(chunk, positions, logits)
        best, winner = corners.interpolate(logits[0]), torch.zeros_like(chunk, dtype=torch.uint8)
        for index in range(1, len(logits)):
            values = corners.interpolate(logits[index])
            winner.masked_fill_(values > best, index)
            torch.maximum(values, best, out=best)
        flat[chunk] = winner
    return winners


def find_positive_between(logits: Tensor, positions: Sequence[Positions]) -> Tensor:
    """Where one linearly interpolated map is above 0.

    Args:
        logits: ``(I, J, K)`` float32.
        positions: Of the points along I, J and K, on the device of ``logits``.

    Returns:
        bool of the lengths of ``positions``.
    """
    is_positive = _pick_agreed((logits > 0).to(torch.uint8), positions)
    flat = is_positive.view(-1)
    for chunk in _list_mixed(flat):
        flat[chunk] = (_Corners(chunk, positions, logits[None]).interpolate(logits) > 0).to(torch.uint8)
    return is_positive.bool()


def find_winners(logits: Tensor) -> Tensor:
    """Number of the largest logit at every voxel.

    Args:
        logits: ``(classes, ...)``.

    Returns:
        uint8 ``(...)``; the first of equals wins.
    """
    best = logits[0].clone()
    winners = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for index in range(1, len(logits)):
        winners.masked_fill_(logits[index] > best, index)
        torch.maximum(best, logits[index], out=best)
    return winners


def interpolate(values: Tensor, positions: Sequence[Positions]) -> Tensor:
    """One map ``(I, J, K)`` at all points of a grid, by linear interpolation along one axis after the other."""
    for axis, where in enumerate(positions):
        if where.lie_on_voxels:
            values = values.index_select(axis, where.lower)
            continue
        shape = [-1 if other == axis else 1 for other in range(3)]
        weight = where.weight.reshape(shape)
        values = _mix(values.index_select(axis, where.lower), values.index_select(axis, where.upper), weight)
    return values


def _mix(lower: Tensor, upper: Tensor, weight: Tensor) -> Tensor:
    """Two products and a sum, each rounded: so a larger neighbour never makes a smaller mean. `torch.lerp` may."""
    return lower * (1 - weight) + upper * weight


def _pick_agreed(winners: Tensor, positions: Sequence[Positions]) -> Tensor:
    """At every point, the winner of the voxels around it where they agree, else `_MIXED`."""
    for axis, where in enumerate(positions):
        lower = winners.index_select(axis, where.lower)
        if not where.lie_on_voxels:
            lower.masked_fill_(winners.index_select(axis, where.upper) != lower, _MIXED)
        winners = lower
    return winners


def _list_mixed(flat: Tensor) -> Sequence[Tensor]:
    """Numbers of the points whose neighbours do not agree, in chunks."""
    points = torch.nonzero(flat == _MIXED)[:, 0]
    return points.split(_CHUNK) if len(points) else ()


class _Corners:
    """The eight voxels around points that are given by their number on a grid."""

    def __init__(self, points: Tensor, positions: Sequence[Positions], logits: Tensor) -> None:
        lengths = [len(where) for where in positions]
        numbers = (points // (lengths[1] * lengths[2]), points // lengths[2] % lengths[1], points % lengths[2])
        self._weights = [where.weight[number] for where, number in zip(positions, numbers, strict=True)]
        strides = logits.stride()[1:]
        sides = [
            (where.lower[number] * stride, where.upper[number] * stride)
            for where, number, stride in zip(positions, numbers, strides, strict=True)
        ]
        (i0, i1), (j0, j1), (k0, k1) = sides
        # In the order in which they are mixed: pairs along I, then J, then K.
        self._offsets = [i + j + k for k in (k0, k1) for j in (j0, j1) for i in (i0, i1)]
        self._span = 1 + sum((size - 1) * stride for size, stride in zip(logits.shape[1:], strides, strict=True))

    def interpolate(self, values: Tensor) -> Tensor:
        """One map, as `interpolate` gives it at these points."""
        flat = values.as_strided((self._span,), (1,))
        mixed = [flat.index_select(0, offset) for offset in self._offsets]
        for weight in self._weights:
            mixed = [_mix(lower, upper, weight) for lower, upper in zip(mixed[::2], mixed[1::2], strict=True)]
        (result,) = mixed
        return result
