"""Which blocks of a patch are hidden: a pure function of the seed and the patch's number.

```text
  patch 6 x 8, blocks of 2 x 2, share 0.6: 7 of 12 blocks are hidden

  # # . . # # # #
  # # . . # # # #
  . . # # . . # #
  . . # # . . # #
  # # . . # # . .
  # # . . # # . .
```

A block is a voxel of the network's coarsest grid, so that what is hidden cannot be read off its neighbours; what is hidden at
all is read off anatomy. With blocks of one voxel the network would learn to interpolate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medunet.planning import NetworkPlan
from medunet.volume import Shape3

_HIDING = 20  # stream of random numbers


def find_block(plan: NetworkPlan) -> Shape3:
    """Voxels of a patch that become one of the network's coarsest grid."""
    i, j, k = (math.prod(stride[axis] for stride in plan.strides) for axis in range(3))
    return i, j, k


def draw_hidden(
    patch_size: Shape3, block: Shape3, share: float, *, seed: int, iteration: int, positions: Sequence[int]
) -> Tensor:
    """Hidden voxels of some patches of an iteration; the same each time.

    Args:
        patch_size: Of a patch.
        block: Of voxels that are hidden together; the last ones are cut off where they do not fit.
        share: Of the blocks that are hidden, rounded; at least one is, and at least one is not.
        seed: Of the training.
        iteration: Its number.
        positions: Of the patches among those of the iteration.

    Returns:
        bool ``(B, 1, I, J, K)`` on the CPU.

    Raises:
        ValueError: If a patch has one block only, of which nothing can be shown.
    """
    counts = [math.ceil(size / edge) for size, edge in zip(patch_size, block, strict=True)]
    num_blocks = math.prod(counts)
    if num_blocks < 2:
        msg = f"A patch of {patch_size} voxels is a single block of {block}: either all or nothing would be hidden. Take a larger patch."
        raise ValueError(msg)
    num_hidden = min(num_blocks - 1, max(1, round(share * num_blocks)))
    grids = np.zeros((len(positions), num_blocks), dtype=bool)
    for grid, position in zip(grids, positions, strict=True):
        rng = np.random.default_rng([seed, _HIDING, iteration, position])
        grid[rng.permutation(num_blocks)[:num_hidden]] = True
    hidden = torch.from_numpy(grids.reshape(len(positions), 1, *counts))
    for axis, edge in enumerate(block, start=2):
        hidden = hidden.repeat_interleave(edge, axis)
    i, j, k = patch_size
    return hidden[:, :, :i, :j, :k]
