"""Where the tiles of a sliding window lie and what they weigh.

The window is an outer product of three one-dimensional windows, so the sum of weights at a voxel is the product of three
sums that are known before anything runs: no counter volume is needed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.volume import Shape3

STEP_FRACTION = 0.5
SIGMA_FRACTION = 1 / 8  # of the patch, as in nnU-Net (doi:10.1038/s41592-020-01008-z)

Box = tuple[slice, slice, slice]


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

    def list_boxes(self) -> list[Box]:
        """All tiles, the last axis running fastest."""
        return [self._build_box(starts) for starts in itertools.product(*self.starts)]

    def list_row(self, axis: int, start: int) -> list[Box]:
        """The tiles that begin at one plane of an axis, the last axis running fastest."""
        choices = [[start] if other == axis else starts for other, starts in enumerate(self.starts)]
        return [self._build_box(starts) for starts in itertools.product(*choices)]

    @property
    def streaming_axis(self) -> int:
        """The axis along which the planes of one row of tiles hold the fewest voxels; the first of equals."""
        shares = [size / length for size, length in zip(self.patch_size, self.padded_shape, strict=True)]
        return shares.index(min(shares))

    def compute_window(self) -> Tensor:
        """Weight of every voxel of a tile, ``patch_size``."""
        i, j, k = self.windows
        return i[:, None, None] * j[None, :, None] * k[None, None, :]

    def compute_weight_sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the windows along each axis; the sum at a voxel is the product of three entries."""
        i, j, k = (
            _sum_windows(window, starts, length)
            for window, starts, length in zip(self.windows, self.starts, self.padded_shape, strict=True)
        )
        return i, j, k

    def _build_box(self, starts: tuple[int, ...]) -> Box:
        i, j, k = (slice(start, start + size) for start, size in zip(starts, self.patch_size, strict=True))
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
