"""How far the members of one mask agree, counted while their tiles pass.

Where tiles are mirrored, the members are the mirrored passes of each network, held against the mean of that network: so five
folds can be judged by what the passes of one fold said in validation. Without mirrored passes they are the networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medunet.postprocessing import AgreementCounter, AgreementCounts, decide, join_agreement
from medunet.tasks import Task


def name_members(num_networks: int, num_flips: int) -> str | None:
    """Whose agreement is counted, in the words of `AgreementCounts`; None where one pass of one network decides.

    Example:
        >>> name_members(5, 8), name_members(5, 1), name_members(1, 1)
        ('8 flips', '5 networks', None)
    """
    if num_flips > 1:
        return f"{num_flips} flips"
    return f"{num_networks} networks" if num_networks > 1 else None


class MembersWatch:
    """Listens to `TileNetworks` during one scan.

    Args:
        task: Gives the labels.
        num_networks: That answer together.
        num_flips: Passes of every tile through each.
        device: That computes.
    """

    def __init__(self, task: Task, num_networks: int, num_flips: int, device: torch.device) -> None:
        self._has_regions = task.has_regions
        self._counters: list[AgreementCounter] = []
        if (members := name_members(num_networks, num_flips)) is not None:
            num_means, num_members = (num_networks, num_flips) if num_flips > 1 else (1, num_networks)
            self._counters = [AgreementCounter(task, members, num_members, device) for _ in range(num_means)]

    def add(self, number: int, members: Sequence[Tensor], mean: Tensor) -> None:
        """Count a batch of tiles.

        Args:
            number: Of the network whose passes these are; 0 where the members are networks.
            members: Logits ``(B, outputs, *patch_size)`` of each.
            mean: Their mean.
        """
        decided = torch.stack([decide(logits, has_regions=self._has_regions) for logits in members])
        self._counters[number].add(decided, decide(mean, has_regions=self._has_regions))

    def read(self) -> AgreementCounts | None:
        """What was counted; None where there is only one member."""
        return join_agreement([counter.read() for counter in self._counters]) if self._counters else None
