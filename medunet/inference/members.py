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
        if num_flips > 1:
            self._counters = [
                AgreementCounter(task, f"{num_flips} flips", num_flips, device) for _ in range(num_networks)
            ]
        elif num_networks > 1:
            self._counters = [AgreementCounter(task, f"{num_networks} networks", num_networks, device)]

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
