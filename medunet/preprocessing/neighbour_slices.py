"""2.5D: a network of slices that also sees the slices on either side, as channels.

```text
volume along the slice axis     0 1 2 3 4          The nearest slice is repeated beyond the ends.
seen with slice 0, two a side   0 0 0 1 2
seen with slice 3               1 2 3 4 4
```

Channels are ordered by image channel first, then by slice: with one slice a side, ``t1`` before, ``t1`` here, ``t1`` behind, ``t2``
before, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.planning import Plan

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class NeighbourSlices:
    """What a network of slices sees beside its slice.

    Attributes:
        axis: Across the slices: 0, 1 or 2.
        number: Of slices on each side, from 1 on.
    """

    axis: int
    number: int

    @property
    def offsets(self) -> range:
        """From the first neighbour to the last, the slice itself in the middle."""
        return range(-self.number, self.number + 1)

    def list_slices(self, index: int, length: int) -> list[int]:
        """The slices that are seen with one, in order; beyond the ends the nearest.

        Example:
            >>> NeighbourSlices(axis=2, number=2).list_slices(0, 5), NeighbourSlices(axis=2, number=2).list_slices(3, 5)
            ([0, 0, 0, 1, 2], [1, 2, 3, 4, 4])
        """
        return [min(max(index + offset, 0), length - 1) for offset in self.offsets]


def name_slices(channels: Sequence[str], number: int) -> tuple[str, ...]:
    """A name for each channel that a network sees with some slices on each side; the channels themselves with none.

    Example:
        >>> name_slices(["t1"], 1)
        ('t1 -1', 't1', 't1 +1')
    """
    offsets = range(-number, number + 1)
    return tuple(f"{name} {offset:+d}" if offset else name for name in channels for offset in offsets)


def find_neighbour_slices(plan: Plan) -> NeighbourSlices | None:
    """What the networks of a plan see beside their slice; None for all plans but those of ``2.5d``."""
    if plan.num_neighbour_slices == 0:
        return None
    return NeighbourSlices(axis=plan.patch_size.index(1), number=plan.num_neighbour_slices)


def crop_with_neighbours(image: Tensor, box: Box, neighbours: NeighbourSlices) -> Tensor:
    """A box of one slice as a network sees it.

    Args:
        image: ``(C, I, J, K)``.
        box: One voxel along the slice axis.
        neighbours: How many slices, along which axis.

    Returns:
        ``(C * slices, I, J, K)``, one voxel along the slice axis.
    """
    axis = neighbours.axis
    slices = neighbours.list_slices(box[axis].start, image.shape[1 + axis])
    in_plane = [slice(None), *box]
    in_plane[1 + axis] = slice(None)
    return fold_slices(image[tuple(in_plane)].index_select(1 + axis, torch.tensor(slices, device=image.device)), axis)


def fold_slices(patches: Tensor, axis: int) -> Tensor:
    """Slices as channels.

    Args:
        patches: ``(..., C, I, J, K)`` with as many slices along an axis as a network sees at once.
        axis: Of the slices: 0, 1 or 2 of ``(I, J, K)``.

    Returns:
        ``(..., C * slices, I, J, K)`` with one voxel along the axis.

    Example:
        >>> fold_slices(torch.arange(12.0).reshape(2, 2, 1, 3), 2)[:, 0, 0, 0].tolist()
        [0.0, 1.0, 2.0, 6.0, 7.0, 8.0]
    """
    moved = patches.movedim(axis - 3, -3)  # (..., C, slices, the other two axes)
    return moved.flatten(-4, -3).unsqueeze(axis - 3)
