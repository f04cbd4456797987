"""Tiles seen with what surrounds them: the overlap-tile strategy of 2015 (Ronneberger 2015, arXiv:1505.04597).

A network without padding answers for the inside of what it sees. In training it gets patches, whose borders it mirrors. Of a whole
scan it can see what truly lies around every tile, and only the scan's own borders are mirrored.

```text
scan       c b [ a b c d | e f g h | ...        tile of e to h, a margin of 2: c d [e f g h] i j
mirrored   ^^^                                  tile of a to d, at the border: c b [a b c d] e f
```
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medunet.inference.sliding_window import CropTile
from medunet.inference.tiling import Box
from medunet.networks import PatchNetwork, find_surroundings
from medunet.networks.borders import list_mirrored
from medunet.planning import Plan
from medunet.volume import Shape3


def find_plan_margins(plan: Plan) -> Shape3 | None:
    """Voxels around the tiles of a plan along each axis, before and after alike; None where the network sees tiles as they are.

    A network may need more behind a tile than before it. As much is taken on both sides, so that a mirrored tile has it, too.
    """
    i, j, k = map(max, find_surroundings(plan.network, plan.patch_size))
    return (i, j, k) if any((i, j, k)) else None


def find_seen_size(plan: Plan) -> Shape3:
    """Voxels that the network sees of a tile, margins included."""
    i, j, k = (
        size + 2 * margin for size, margin in zip(plan.patch_size, find_plan_margins(plan) or (0, 0, 0), strict=True)
    )
    return i, j, k


def surround(crop: CropTile, plan: Plan) -> CropTile:
    """A way to crop tiles that takes along what the networks of a plan see around them; the same one where they see nothing."""
    margins = find_plan_margins(plan)
    if margins is None:
        return crop
    return partial(_crop_surrounded, crop=crop, patch_size=plan.patch_size, margins=margins)


def _crop_surrounded(image: Tensor, box: Box, *, crop: CropTile, patch_size: Shape3, margins: Shape3) -> Tensor:
    """A tile ``(C, *seen)``; it is never cut off at the end of the image."""
    places: dict[int, Tensor] = {}
    cut = list(box)
    for axis, margin in enumerate(margins):
        if margin == 0:
            continue
        start = box[axis].start
        voxels = list_mirrored(start - margin, start + patch_size[axis] + margin, image.shape[1 + axis], image.device)
        first = int(voxels.min())
        cut[axis] = slice(first, int(voxels.max()) + 1)
        places[axis] = voxels - first
    seen = crop(image, (cut[0], cut[1], cut[2]))
    for axis, voxels in places.items():
        seen = seen.index_select(1 + axis, voxels)
    return seen


class Surrounded(nn.Module):
    """A network that is given tiles with their surroundings; patches without them it sees as in training.

    Args:
        network: Of the plan.
        plan: Whose tiles it sees.
    """

    def __init__(self, network: PatchNetwork, plan: Plan) -> None:
        super().__init__()
        self.network = network
        self._patch_size = plan.patch_size
        before = [first for first, _ in find_surroundings(plan.network, plan.patch_size)]
        self._spare = [margin - n for margin, n in zip(find_plan_margins(plan) or (0, 0, 0), before, strict=True)]

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits ``(B, outputs, *patch_size)``."""
        if tiles.shape[2:] == torch.Size(self._patch_size):
            answer: Tensor = self.network(tiles)
            return answer
        i, j, k = (slice(spare, None) for spare in self._spare)
        return self.network.compute_inside(tiles[:, :, i, j, k], self._patch_size)


def let_see_surroundings(network: nn.Module, plan: Plan) -> nn.Module:
    """The network, ready for the tiles of `surround`; itself where there is nothing to see around them."""
    if find_plan_margins(plan) is None:
        return network
    inner: Any = network
    return Surrounded(inner, plan).eval()
