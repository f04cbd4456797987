"""A network that sees patches, applied to a whole volume: overlapping tiles, Gaussian weights, exact sums.

The window is an outer product of three one-dimensional windows, so the sum of weights at a voxel is the product of three
sums that are known before anything runs: no counter volume is needed. Sums are float32 whatever the network computes in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.volume import Shape3

STEP_FRACTION = 0.5
SIGMA_FRACTION = 1 / 8  # of the patch, as in nnU-Net (doi:10.1038/s41592-020-01008-z)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Where tiles lie and what they weigh.

    Attributes:
        patch_size: Voxels of a tile.
        padded_shape: The volume, padded at its end where it is smaller than a tile.
        starts: First voxel of the tiles along each axis.
        windows: Weight of a tile's voxels along each axis.
    """

    patch_size: Shape3
    padded_shape: Shape3
    starts: tuple[list[int], list[int], list[int]]
    windows: tuple[Tensor, Tensor, Tensor]

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self.starts)

    def list_boxes(self) -> list[tuple[slice, slice, slice]]:
        """All tiles, the last axis running fastest."""
        return [
            (slice(i, i + self.patch_size[0]), slice(j, j + self.patch_size[1]), slice(k, k + self.patch_size[2]))
            for i, j, k in itertools.product(*self.starts)
        ]

    def compute_weight_sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the windows along each axis; the sum at a voxel is the product of three entries."""
        i, j, k = (
            _sum_windows(window, starts, length)
            for window, starts, length in zip(self.windows, self.starts, self.padded_shape, strict=True)
        )
        return i, j, k


def plan_tiles(shape: Shape3, patch_size: Shape3, *, step_fraction: float = STEP_FRACTION) -> Tiling:
    """Evenly spread tiles that cover the volume.

    Args:
        shape: Of the volume; may be smaller than a tile.
        patch_size: Of a tile.
        step_fraction: Largest step between tiles as a share of the tile, in ``(0, 1]``.

    Raises:
        ValueError: If the step is out of range.

    Example:
        >>> plan_tiles((10, 20, 33), (16, 16, 16)).starts
        ([0], [0, 4], [0, 6, 11, 17])
    """
    if not 0 < step_fraction <= 1:
        msg = f"The step is {step_fraction}; expected a share of the tile, above 0 and at most 1."
        raise ValueError(msg)
    axes = list(zip(shape, patch_size, strict=True))
    i, j, k = (_spread(length, size, step_fraction) for length, size in axes)
    padded_i, padded_j, padded_k = (max(length, size) for length, size in axes)
    window_i, window_j, window_k = (_build_window(size) for size in patch_size)
    return Tiling(
        patch_size=patch_size,
        padded_shape=(padded_i, padded_j, padded_k),
        starts=(i, j, k),
        windows=(window_i, window_j, window_k),
    )


def apply_sliding_window(
    image: Tensor,
    predict: Callable[[Tensor], Tensor],
    patch_size: Shape3,
    fill: Tensor,
    *,
    step_fraction: float = STEP_FRACTION,
    batch_size: int = 1,
    on_tiles: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Weighted mean of the predictions of all tiles.

    Args:
        image: ``(C, I, J, K)`` float32 on the device that computes.
        predict: ``(B, C, *patch_size)`` to logits ``(B, classes, *patch_size)``.
        patch_size: Of a tile.
        fill: ``(C,)``: what a volume smaller than a tile is padded with.
        step_fraction: Largest step between tiles as a share of the tile.
        batch_size: Tiles at once.
        on_tiles: Called with the number of finished tiles and of all.

    Returns:
        Logits ``(classes, I, J, K)`` float32 on the image's device.
    """
    shape: Shape3 = (image.shape[1], image.shape[2], image.shape[3])
    tiling = plan_tiles(shape, patch_size, step_fraction=step_fraction)
    padded = _pad(image, tiling.padded_shape, fill)
    window = _multiply_axes(*(weights.to(image.device) for weights in tiling.windows))
    boxes = tiling.list_boxes()
    sums: Tensor | None = None
    num_done = 0
    for batch in _batched(boxes, batch_size):
        tiles = torch.stack([padded[(slice(None), *box)] for box in batch])  # (B, C, *patch_size)
        logits = predict(tiles).float()
        if sums is None:
            sums = torch.zeros((logits.shape[1], *tiling.padded_shape), device=image.device)
        for box, tile_logits in zip(batch, logits, strict=True):
            sums[(slice(None), *box)] += tile_logits * window
        num_done += len(batch)
        if on_tiles:
            on_tiles(num_done, len(boxes))
    assert sums is not None  # a volume has at least one tile
    for axis, weights in enumerate(tiling.compute_weight_sums()):
        broadcast = [1, 1, 1, 1]
        broadcast[1 + axis] = -1
        sums /= weights.to(image.device).reshape(broadcast)
    return sums[:, : shape[0], : shape[1], : shape[2]]


def _spread(length: int, size: int, step_fraction: float) -> list[int]:
    """Starts from 0 to the last that fits, as few as the step allows, evenly apart."""
    room = length - size
    if room <= 0:
        return [0]
    num_steps = math.ceil(room / max(1, math.floor(size * step_fraction)))
    return [round(step * room / num_steps) for step in range(num_steps + 1)]


def _build_window(size: int) -> Tensor:
    """Gaussian centred on the tile; never so small that float32 sums lose it."""
    positions = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-0.5 * (positions / (size * SIGMA_FRACTION)) ** 2)
    return window.clamp(min=1e-3).float()


def _sum_windows(window: Tensor, starts: list[int], length: int) -> Tensor:
    sums = torch.zeros(length)
    for start in starts:
        sums[start : start + len(window)] += window
    return sums


def _multiply_axes(i: Tensor, j: Tensor, k: Tensor) -> Tensor:
    return i[:, None, None] * j[None, :, None] * k[None, None, :]


def _pad(image: Tensor, shape: Shape3, fill: Tensor) -> Tensor:
    if tuple(image.shape[1:]) == shape:
        return image
    padded = fill.to(image)[:, None, None, None].expand(-1, *shape).clone()
    padded[:, : image.shape[1], : image.shape[2], : image.shape[3]] = image
    return padded


def _batched(boxes: list[tuple[slice, slice, slice]], size: int) -> Iterator[list[tuple[slice, slice, slice]]]:
    for start in range(0, len(boxes), size):
        yield boxes[start : start + size]
