"""How far the members of one mask agree, counted while their tiles pass.

Where tiles are mirrored, the members are the mirrored passes of each network, held against the mean of that network: so five
folds can be judged by what the passes of one fold said in validation. Without mirrored passes they are the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from medunet.inference.tiling import STEP_FRACTION
from medunet.postprocessing import AgreementCounter, AgreementCounts, decide, join_agreement
from medunet.tasks import Task


def name_members(num_networks: int, num_flips: int, step_fraction: float) -> str | None:
    """Whose agreement is counted, in the words of `AgreementCounts`; None where one pass of one network decides.

    Another step between tiles makes other members: what lies near the border of a tile is seen less well, so passes disagree more
    where steps are larger, and the mask is another one. The usual step is not named.

    Args:
        num_networks: That answer together.
        num_flips: Passes of every tile through each.
        step_fraction: Largest step between tiles as a share of the tile.

    Example:
        >>> name_members(5, 8, 0.5), name_members(5, 1, 0.5), name_members(1, 8, 0.75), name_members(1, 1, 0.5)
        ('8 flips', '5 networks', '8 flips at step 0.75', None)
    """
    if num_networks == num_flips == 1:
        return None
    members = f"{num_flips} flips" if num_flips > 1 else f"{num_networks} networks"
    return members if step_fraction == STEP_FRACTION else f"{members} at step {step_fraction:g}"


class MembersWatch:
    """Listens to `TileNetworks` during one scan.

    Args:
        task: Gives the labels.
        num_networks: That answer together.
        num_flips: Passes of every tile through each.
        step_fraction: Largest step between tiles as a share of the tile.
        device: That computes.
    """

    def __init__(
        self, task: Task, num_networks: int, num_flips: int, step_fraction: float, device: torch.device
    ) -> None:
        self._has_regions = task.has_regions
        self._counters: list[AgreementCounter] = []
        if (members := name_members(num_networks, num_flips, step_fraction)) is not None:
            num_means, num_members = (num_networks, num_flips) if num_flips > 1 else (1, num_networks)
            self._counters = [AgreementCounter(task, members, num_members, device) for _ in range(num_means)]

    def count(self, number: int, members: Sequence[Tensor], mean: Tensor) -> Callable[[], None]:
        """Count a batch of tiles.

        Args:
            number: Of the network whose passes these are; 0 where the members are networks.
            members: Logits ``(B, outputs, *patch_size)`` of each.
            mean: Their mean.

        Returns:
            Adds what was counted to what is known of the scan.
        """
        decided = torch.stack([decide(logits, has_regions=self._has_regions) for logits in members])
        counter = self._counters[number]
        return partial(counter.keep, *counter.count(decided, decide(mean, has_regions=self._has_regions)))

    def read(self) -> AgreementCounts | None:
        """What was counted; None where there is only one member."""
        return join_agreement([counter.read() for counter in self._counters]) if self._counters else None
