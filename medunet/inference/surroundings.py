"""Tiles seen with what surrounds them: the overlap-tile strategy of 2015 (Ronneberger 2015, arXiv:1505.04597).

A network without padding answers for the inside of what it sees. In training it gets patches, whose borders it mirrors. Of a whole
scan it can see what truly lies around every tile, and only the scan's own borders are mirrored.

```text
scan       c b [ a b c d | e f g h | ...        tile of e to h, a margin of 2: c d [e f g h] i j
mirrored   ^^^                                  tile of a to d, at the border: c b [a b c d] e f
```
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medunet.networks import Margins, PatchNetwork, find_surroundings
from medunet.networks.borders import list_mirrored
from medunet.planning import Plan
from medunet.volume import Shape3

Crop = Callable[[Tensor, tuple[slice, slice, slice]], Tensor]


def find_plan_surroundings(plan: Plan) -> Margins | None:
    """Margins of the tiles of a plan; None where the network sees tiles as they are."""
    margins = find_surroundings(plan.network, plan.patch_size)
    return margins if any(map(any, margins)) else None


def find_seen_size(plan: Plan) -> Shape3:
    """Voxels that the network sees of a tile, margins included."""
    margins = find_surroundings(plan.network, plan.patch_size)
    i, j, k = (size + sum(margin) for size, margin in zip(plan.patch_size, margins, strict=True))
    return i, j, k


def surround(crop: Crop, plan: Plan) -> Crop:
    """A way to crop tiles that takes along what the networks of a plan see around them; the same one where they see nothing."""
    margins = find_plan_surroundings(plan)
    if margins is None:
        return crop
    return partial(_crop_surrounded, crop=crop, patch_size=plan.patch_size, margins=margins)


def _crop_surrounded(
    image: Tensor, box: tuple[slice, slice, slice], *, crop: Crop, patch_size: Shape3, margins: Margins
) -> Tensor:
    """A tile ``(C, *seen)``; it is never cut off at the end of the image."""
    surrounded = [axis for axis in range(3) if any(margins[axis])]
    i, j, k = (slice(0, image.shape[1 + axis]) if axis in surrounded else box[axis] for axis in range(3))
    seen = crop(image, (i, j, k))
    for axis in surrounded:
        before, after = margins[axis]
        start = box[axis].start
        places = list_mirrored(start - before, start + patch_size[axis] + after, image.shape[1 + axis])
        seen = seen.index_select(1 + axis, places.to(image.device))
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

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits ``(B, outputs, *patch_size)``."""
        if tiles.shape[2:] == torch.Size(self._patch_size):
            answer: Tensor = self.network(tiles)
            return answer
        return self.network.compute_inside(tiles, self._patch_size)


def let_see_surroundings(network: nn.Module, plan: Plan) -> nn.Module:
    """The network, ready for the tiles of `surround`; itself where there is nothing to see around them."""
    if find_plan_surroundings(plan) is None:
        return network
    inner: Any = network
    return Surrounded(inner, plan).eval()
