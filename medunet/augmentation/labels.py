"""Deform label maps with smooth borders, in one pass for any number of labels.

Linear interpolation of every label's one-hot map, then the largest, gives smooth borders where nearest neighbour gives
steps, but its cost grows with the labels. A voxel's result depends on the eight corners around its position alone: at most
eight labels have any weight there, and where the corners agree nothing needs to be computed.
"""

from __future__ import annotations

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
    result = summary.to(torch.uint8)
    mixed = torch.nonzero(summary < 0)[:, 0]
    corners = _gather_corners(codes, cells.index_select(0, mixed))
    result.index_copy_(0, mixed, _vote(corners, _compute_weights([share.index_select(0, mixed) for share in shares])))
    return result.reshape(shape)


def _locate(coordinates: Tensor, codes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Index ``(N,)`` of each position's lowest corner in the flat codes, and the share of the way to the next, by axis."""
    flat = coordinates.reshape(-1, 3)
    cells = torch.zeros(len(flat), dtype=torch.int32, device=flat.device)
    shares = []
    for axis, (size, stride) in enumerate(zip(codes.shape, codes.stride(), strict=True)):
        position = flat[:, axis].clamp(0, size - 1)
        lowest = position.floor().clamp_(max=max(size - 2, 0))
        shares.append(position.sub_(lowest))
        cells.add_(lowest.int(), alpha=stride)
    return cells, shares


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


def _vote(corners: Tensor, weights: Tensor) -> Tensor:
    """The code ``(N,)`` whose corners weigh most together."""
    # Every corner sums over all eight in the same order: corners of one label get the very same sum, so ties are exact.
    support = torch.zeros_like(weights)
    for a in range(8):
        support[a] += weights[a]
        for b in range(a + 1, 8):
            agrees = (corners[a] == corners[b]).to(weights.dtype)
            support[a].addcmul_(agrees, weights[b])
            support[b].addcmul_(agrees, weights[a])
    losers = (support < support.amax(0)).to(torch.uint8) * 255
    return (corners | losers).amin(0)  # a loser's code becomes 255, which no winner's exceeds
