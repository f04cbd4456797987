"""Volumes in blocks: whatever box is read, of whatever shape, little more than the box is touched.

In a plain array a slice across the last axis touches every page of the file. In blocks of 16 voxels a side the same
slice touches a sixteenth, and a patch is read in a few long runs (``benchmarks/bench_store.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from medunet.volume import Array, Shape3

BLOCK = 16
"""Voxels along each side of a block."""

Box = tuple[slice, slice, slice]
ReadRuns = Callable[[Sequence[tuple[int, Array]]], None]
"""Fills arrays with the blocks that begin at given blocks of the file."""


def to_blocks(array: Array) -> Array:
    """Cut ``(C, I, J, K)`` into blocks.

    Returns:
        ``(BI, BJ, BK, C, 16, 16, 16)``, contiguous; the last blocks are filled up with zeros.
    """
    channels, *shape = array.shape
    counts = [math.ceil(length / BLOCK) for length in shape]
    padded = np.pad(array, [(0, 0), *((0, n * BLOCK - length) for n, length in zip(counts, shape, strict=True))])
    bi, bj, bk = counts
    split = padded.reshape(channels, bi, BLOCK, bj, BLOCK, bk, BLOCK)
    return np.ascontiguousarray(split.transpose(1, 3, 5, 0, 2, 4, 6))


def read_box_from_blocks(read: ReadRuns, blocks_shape: Sequence[int], dtype: np.dtype[np.generic], box: Box) -> Array:
    """Put a box together from the blocks that it touches.

    Args:
        read: Gets indices of blocks, all axes flattened, each with an array of as many blocks as shall be read from there.
        blocks_shape: Of `to_blocks`.
        dtype: Of the voxels.
        box: Within the volume, not empty.

    Returns:
        ``(C, *box)``, contiguous.
    """
    counts, channels = blocks_shape[:3], blocks_shape[3]
    first = [edge.start // BLOCK for edge in box]
    size_i, size_j, size_k = (math.ceil(edge.stop / BLOCK) - at for edge, at in zip(box, first, strict=True))
    blocks = np.empty((size_i, size_j, size_k, channels, BLOCK, BLOCK, BLOCK), dtype)
    rows = ((first[0] + np.arange(size_i)[:, None]) * counts[1] + first[1] + np.arange(size_j)) * counts[2] + first[2]
    if size_k == counts[2]:  # whole rows follow each other in the file: one run
        read([(int(rows[i, 0]), blocks[i]) for i in range(size_i)])
    else:
        read([(int(rows[i, j]), blocks[i, j]) for i in range(size_i) for j in range(size_j)])
    merged = blocks.transpose(3, 0, 4, 1, 5, 2, 6).reshape(channels, size_i * BLOCK, size_j * BLOCK, size_k * BLOCK)
    inner = tuple(slice(edge.start - at * BLOCK, edge.stop - at * BLOCK) for edge, at in zip(box, first, strict=True))
    return np.ascontiguousarray(merged[(slice(None), *inner)])


def whole_box(shape: Shape3) -> Box:
    """All of a volume of ``(I, J, K)`` voxels."""
    i, j, k = shape
    return slice(0, i), slice(0, j), slice(0, k)
