"""Which class wins on a finer grid, interpolated only where it is in question.

Where all eight neighbours of a point have the same winner, linear interpolation cannot change it: a mean of eight vectors
whose largest entry is the same one has it there too. So the winners of the neighbours are compared first, as bytes, and
logits are interpolated only along borders. Products and sums are rounded one by one in the same order for every class, and
rounding never turns the order of two numbers, so this holds for the computed means as well as for the exact ones, up to ties
that rounding makes: there the first of the classes would win, and here the one of all eight does.

Linear interpolation goes axis by axis: planes first, then the lines of a plane that cross a border, then the points on them. A point
then costs two neighbours instead of eight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MIXED = 255
"""In a map of winners: the neighbours do not agree. Classes have smaller numbers (`medunet.tasks.encoding`)."""
CHUNK = 2**20
"""Logits interpolated at a time, so that they stay in the cache: 4 MiB."""
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

    def choose(self, which: slice | Tensor) -> Positions:
        """Some of the points, by a slice or by indices ``(M,)``."""
        return Positions(lower=self.lower[which], upper=self.upper[which], weight=self.weight[which])

    def shift(self, start: int | Tensor) -> Positions:
        """The same points on a line whose first voxel has that number, one for all or ``(N,)``."""
        return Positions(lower=self.lower + start, upper=self.upper + start, weight=self.weight)

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
        found = _pick_agreed(_find_winners(rows), within)
        for points, values in _interpolate_mixed(rows, found, within):
            found[points] = _find_winners(values)
        winners[block] = found
    return winners


def find_positive_between(logits: Tensor, positions: Sequence[Positions], *, block_logits: int = BLOCK) -> Tensor:
    """Where one linearly interpolated map is above 0.

    Args:
        logits: ``(I, J, K)`` float32.
        positions: Of the points along I, J and K, on the device of ``logits``.
        block_logits: Looked at at a time; fewer take less memory and give the same.

    Returns:
        bool of the lengths of ``positions``.
    """
    is_positive = torch.empty([len(where) for where in positions], dtype=torch.bool, device=logits.device)
    for block, part, within in _split_planes(logits[None], positions, block_logits):
        rows = part[0].contiguous()[..., None]
        found = _pick_agreed((rows[..., 0] > 0).to(torch.uint8), within)
        for points, values in _interpolate_mixed(rows, found, within):
            found[points] = (values[:, 0] > 0).to(torch.uint8)
        is_positive[block] = found.bool()
    return is_positive


def interpolate(values: Tensor, positions: Sequence[Positions]) -> Tensor:
    """One map ``(I, J, K)`` at all points of a grid, by linear interpolation along one axis after the other."""
    for axis, where in enumerate(positions):
        values = _blend(values, where, axis)
    return values


def _find_winners(rows: Tensor) -> Tensor:
    """The first of the largest along the last axis, as bytes; ``max`` needs three quarters of the time of ``argmax``."""
    return rows.max(dim=-1).indices.to(torch.uint8)


def _pick_agreed(winners: Tensor, positions: Sequence[Positions]) -> Tensor:
    """At every point, the winner of the voxels around it where they agree, else `_MIXED`."""
    # The last axis first: there bytes are picked one by one, and there are fewest then; whole planes are copied last.
    for axis, where in reversed(list(enumerate(positions))):
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
        yield block, logits[:, start:stop], (along.choose(block).shift(-start), *others)


def _interpolate_mixed(
    rows: Tensor, winners: Tensor, positions: Sequence[Positions]
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
    """Logits of the points whose neighbours do not agree.

    Args:
        rows: ``(I, J, K, classes)``, contiguous.
        winners: uint8 of the lengths of ``positions``, `_MIXED` where logits are asked for.
        positions: Of the points along I, J and K.

    Yields:
        Indices of points, and their logits ``(N, classes)``. How many come at a time does not change them.
    """
    along, across, within = positions
    planes_at_once = max(1, CHUNK // rows[0].numel())
    lines_at_once = max(1, CHUNK // (max(rows.shape[2], len(within)) * rows.shape[3]))
    for first in range(0, len(along), planes_at_once):
        part = slice(first, first + planes_at_once)
        points = torch.nonzero(winners[part] == _MIXED)
        if len(points) == 0:
            continue
        planes = _blend(rows, along.choose(part)).flatten(0, 1)
        # Only the lines with a point in question; they are numbered through the planes, and the points come in this order.
        lines, counts = torch.unique_consecutive(points[:, 0] * len(across) + points[:, 1], return_counts=True)
        counts_by_chunk = torch.split(counts, lines_at_once)
        points_by_chunk = torch.split(points, [int(count.sum()) for count in counts_by_chunk])
        for chosen, count, chunk in zip(
            torch.split(lines, lines_at_once), counts_by_chunk, points_by_chunk, strict=True
        ):
            on_planes = across.choose(chosen % len(across)).shift(chosen // len(across) * rows.shape[1])
            blended = _blend(planes, on_planes).flatten(0, 1)
            starts = torch.repeat_interleave(torch.arange(len(chosen), device=rows.device) * rows.shape[2], count)
            i, j, k = chunk.unbind(1)
            yield (i + first, j, k), _blend(blended, within.choose(k).shift(starts))


def _blend(values: Tensor, positions: Positions, axis: int = 0) -> Tensor:
    """Interpolate linearly along one axis. Every step rises with both neighbours, which `torch.lerp` does not ensure."""
    lower = values.index_select(axis, positions.lower)
    if positions.lie_on_voxels:
        return lower
    weight = positions.weight.reshape([-1 if other == axis else 1 for other in range(values.ndim)])
    return lower.mul_(1 - weight).add_(values.index_select(axis, positions.upper).mul_(weight))
