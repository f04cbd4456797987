"""Deform label maps with smooth borders, in one pass for any number of labels.

Linear interpolation of every label's one-hot map, then the largest, gives smooth borders where nearest neighbour gives
steps, but its cost grows with the labels. A voxel's result depends on the eight corners around its position alone: at most
eight labels have any weight there, and where the corners agree nothing needs to be computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def warp_labels(codes: Tensor, coordinates: Tensor) -> Tensor:
    """The label that weighs most at each position: one-hot, trilinear interpolation and argmax in one pass.

    Args:
        codes: ``(I, J, K)`` uint8 on any device; 255 is a code like the others.
        coordinates: ``(I', J', K', 3)`` float32 voxel positions within the box, on the same device; beyond its border the
            border counts.

    Returns:
        ``(I', J', K')`` uint8; of labels of equal weight the lowest.
    """
    shape = coordinates.shape[:-1]
    codes = codes.contiguous()
    cells, shares = _locate(coordinates, codes)
    if codes.device.type != "cpu":  # picking voxels out would make the host wait for the device
        return _vote(_gather_corners(codes, cells), _compute_weights(shares)).reshape(shape)
    summary = _summarize_cells(codes).flatten().index_select(0, cells)
    mixed = torch.nonzero(summary < 0)[:, 0]
    shares = [share.index_select(0, mixed) for share in shares]
    return _fill_mixed(summary, mixed, codes, cells.index_select(0, mixed), shares).reshape(shape)


def zoom_labels(codes: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """`warp_labels` on a grid: the label that weighs most at each crossing of three axes.

    Args:
        codes: ``(I, J, K)`` uint8 on the CPU.
        positions: ``(I',)``, ``(J',)`` and ``(K',)`` float32 in voxels of the box; beyond its border the border counts.

    Returns:
        ``(I', J', K')`` uint8.
    """
    codes = codes.contiguous()
    placed = [_place_along(along, size) for along, size in zip(positions, codes.shape, strict=True)]
    summary = _summarize_cells(codes)
    for axis, (lowest, _) in enumerate(placed):
        summary = summary.index_select(axis, lowest)
    mixed = torch.nonzero(summary < 0)  # (N, 3)
    cells = torch.zeros(len(mixed), dtype=torch.int32)
    shares = []
    for (lowest, share), index, stride in zip(placed, mixed.unbind(1), codes.stride(), strict=True):
        cells.add_(lowest.index_select(0, index), alpha=stride)
        shares.append(share.index_select(0, index))
    _, num_j, num_k = summary.shape
    flat = (mixed[:, 0] * num_j + mixed[:, 1]) * num_k + mixed[:, 2]
    return _fill_mixed(summary.flatten(), flat, codes, cells, shares).reshape(summary.shape)


def _fill_mixed(summary: Tensor, mixed: Tensor, codes: Tensor, cells: Tensor, shares: list[Tensor]) -> Tensor:
    """Labels ``(N,)`` where the corners agree, and those that win at the ``mixed`` positions; on the CPU."""
    result = summary.to(torch.uint8)
    corners, weights = _gather_corners(codes, cells), _compute_weights(shares)
    winners, are_more = _vote_between_two(corners, weights)
    if len(are_more):
        winners.index_copy_(0, are_more, _vote(corners[:, are_more], weights[:, are_more]))
    return result.index_copy_(0, mixed, winners)


def _locate(coordinates: Tensor, codes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Index ``(N,)`` of each position's lowest corner in the flat codes, and the share of the way to the next, by axis."""
    cells = torch.zeros(coordinates[..., 0].numel(), dtype=torch.int32, device=coordinates.device)
    shares = []
    for axis, (size, stride) in enumerate(zip(codes.shape, codes.stride(), strict=True)):
        lowest, share = _place_along(coordinates[..., axis].reshape(-1), size)
        cells.add_(lowest, alpha=stride)
        shares.append(share)
    return cells, shares


def _place_along(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The voxel before each position along an axis, int32, and the share of the way to the next."""
    positions = positions.clamp(0, size - 1)
    lowest = positions.floor().clamp_(max=max(size - 2, 0))
    return lowest.int(), positions.sub_(lowest)


def _summarize_cells(codes: Tensor) -> Tensor:
    """For the cell between each voxel and the next ones, its code where all corners agree, else -1; int16 ``(I, J, K)``."""
    low = high = codes
    for axis, size in enumerate(codes.shape):
        if size > 1:
            low = torch.minimum(low.narrow(axis, 0, size - 1), low.narrow(axis, 1, size - 1))
            high = torch.maximum(high.narrow(axis, 0, size - 1), high.narrow(axis, 1, size - 1))
    i, j, k = low.shape
    summary = torch.full(codes.shape, -1, dtype=torch.int16)  # behind the last voxels there is no cell, and nobody asks
    summary[:i, :j, :k] = torch.where(low == high, low.to(torch.int16), -1)
    return summary


def _gather_corners(codes: Tensor, cells: Tensor) -> Tensor:
    """The codes ``(8, N)`` at the corners of cells, the last axis fastest."""
    i, j, k = (stride if size > 1 else 0 for stride, size in zip(codes.stride(), codes.shape, strict=True))
    flat = codes.flatten()
    steps = (0, k, j, j + k, i, i + k, i + j, i + j + k)
    return torch.stack([flat.index_select(0, cells + step) for step in steps])


def _compute_weights(shares: list[Tensor]) -> Tensor:
    """Trilinear weights ``(8, N)`` of the corners, in the order of `_gather_corners`."""
    i, j, k = (torch.stack([1 - share, share]) for share in shares)  # (2, N) each
    return (i[:, None, None] * j[None, :, None] * k[None, None]).reshape(8, -1)


def _vote_between_two(corners: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """`_vote` where no more than two codes meet, as at most borders, and the positions ``(M,)`` where more do.

    Weights are summed in the order of `_vote`, so that ties are the same ties.
    """
    low, high = corners.amin(0), corners.amax(0)
    is_low, is_high = corners == low, corners == high
    for_low, for_high = torch.zeros_like(weights[0]), torch.zeros_like(weights[0])
    for weight, at_low, at_high in zip(weights, is_low.to(weights.dtype), is_high.to(weights.dtype), strict=True):
        for_low.addcmul_(weight, at_low)
        for_high.addcmul_(weight, at_high)
    return torch.where(for_high > for_low, high, low), torch.nonzero(~(is_low | is_high).all(0))[:, 0]


def _vote(corners: Tensor, weights: Tensor) -> Tensor:
    """The code ``(N,)`` whose corners weigh most together."""
    # Every corner sums over all eight in the same order: corners of one label get the very same sum, so ties are exact.
    support = torch.zeros_like(weights)
    for corner, weight in zip(corners, weights, strict=True):
        support.addcmul_((corners == corner).to(weights.dtype), weight)
    losers = (support < support.amax(0)).to(torch.uint8) * 255
    return (corners | losers).amin(0)  # a loser's code becomes 255, which no winner's exceeds
