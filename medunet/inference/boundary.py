"""Which class wins on a finer grid, interpolated only where it is in question.

Where all eight neighbours of a point have the same winner, linear interpolation cannot change it: a mean of eight vectors
whose largest entry is the same one has it there too. So the winners of the neighbours are compared first, as bytes, and
logits are interpolated only along borders. Products and sums are rounded one by one in the same order for every class, and
rounding never turns the order of two numbers, so this holds for the computed means as well as for the exact ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MIXED = 255
"""In a map of winners: the neighbours do not agree. Classes have smaller numbers (`medunet.tasks.encoding`)."""
CHUNK = 2**15
"""Points interpolated at a time, so that what is picked up for them stays in the cache."""
BLOCK = 2**24
"""Logits turned at a time, such that the classes of a voxel lie side by side: 64 MiB."""
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


def find_winners_between(logits: Tensor, positions: Sequence[Positions], *, block_logits: int = BLOCK) -> Tensor:
    """The class with the largest linearly interpolated logit at every point of a grid.

    Args:
        logits: ``(classes, I, J, K)`` float32, at most 255 classes; every class contiguous in memory.
        positions: Of the points along I, J and K, on the device of ``logits``.
        block_logits: Turned at a time; fewer take less memory and give the same.

    Returns:
        uint8 of the lengths of ``positions``; the first of equals wins.
    """
    shape = [len(where) for where in positions]
    winners = torch.empty(shape, dtype=torch.uint8, device=logits.device)
    for block, part, within in _split_planes(logits, positions, block_logits):
        rows = part.permute(1, 2, 3, 0).contiguous()  # (planes, J, K, classes)
        found = _pick_agreed(rows.argmax(dim=-1).to(torch.uint8), within)  # argmax: the first of equals
        for chunk in _list_mixed(found):
            found[chunk.unbind(1)] = _interpolate_points(rows, chunk, within).argmax(dim=1).to(torch.uint8)
        winners[block] = found
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
    rows = logits.contiguous()[..., None]
    for chunk in _list_mixed(is_positive):
        is_positive[chunk.unbind(1)] = (_interpolate_points(rows, chunk, positions)[:, 0] > 0).to(torch.uint8)
    return is_positive.bool()


def interpolate(values: Tensor, positions: Sequence[Positions]) -> Tensor:
    """One map ``(I, J, K)`` at all points of a grid, by linear interpolation along one axis after the other."""
    for axis, where in enumerate(positions):
        if where.lie_on_voxels:
            values = values.index_select(axis, where.lower)
            continue
        weight = where.weight.reshape([-1 if other == axis else 1 for other in range(3)])
        values = torch.lerp(values.index_select(axis, where.lower), values.index_select(axis, where.upper), weight)
    return values


def _pick_agreed(winners: Tensor, positions: Sequence[Positions]) -> Tensor:
    """At every point, the winner of the voxels around it where they agree, else `_MIXED`."""
    for axis, where in enumerate(positions):
        lower = winners.index_select(axis, where.lower)
        if not where.lie_on_voxels:
            lower.masked_fill_(winners.index_select(axis, where.upper) != lower, _MIXED)
        winners = lower
    return winners


def _split_planes(
    logits: Tensor, positions: Sequence[Positions], block_logits: int
) -> Iterator[tuple[slice, Tensor, Sequence[Positions]]]:
    """Blocks of planes along the first axis: which points they are, the logits that they need, and where they lie in these."""
    along, *others = positions
    planes_at_once = max(1, block_logits // logits[:, 0].numel())
    points_at_once = max(1, planes_at_once * len(along) // logits.shape[1])
    for first in range(0, len(along), points_at_once):
        block = slice(first, first + points_at_once)
        lower, upper = along.lower[block], along.upper[block]
        start, stop = int(torch.minimum(lower, upper).min()), int(upper.max()) + 1
        within = Positions(lower=lower - start, upper=upper - start, weight=along.weight[block])
        yield block, logits[:, start:stop], (within, *others)


def _list_mixed(winners: Tensor) -> Sequence[Tensor]:
    """Indices ``(N, 3)`` of the points whose neighbours do not agree, in chunks."""
    points = torch.nonzero(winners == _MIXED)
    return torch.split(points, CHUNK) if len(points) else ()


def _interpolate_points(rows: Tensor, points: Tensor, positions: Sequence[Positions]) -> Tensor:
    """Logits of all classes at some points of a grid.

    Args:
        rows: ``(I, J, K, classes)``, contiguous.
        points: ``(N, 3)`` indices.
        positions: Of the grid.

    Returns:
        ``(N, classes)``: products of the eight neighbours with their weights, added up in the same order for every class.
    """
    offsets = torch.zeros((1, len(points)), dtype=torch.int64, device=points.device)
    weights = torch.ones((1, len(points)), device=points.device)
    for where, number, length in zip(positions, points.unbind(1), rows.shape[:3], strict=True):
        ends = torch.stack([where.lower[number], where.upper[number]])
        upper = where.weight[number]
        offsets = (offsets[:, None] * length + ends[None]).reshape(-1, len(points))
        weights = (weights[:, None] * torch.stack([1 - upper, upper])[None]).reshape(-1, len(points))
    neighbours = rows.view(-1, rows.shape[3]).index_select(0, offsets.flatten()).view(8, len(points), -1)
    return neighbours.mul_(weights[..., None]).sum(dim=0)
