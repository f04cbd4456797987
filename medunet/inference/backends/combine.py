"""Several networks as one: the mean of their logits, as nnU-Net does with its folds (doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MeanOfLogits(nn.Module):
    """Several networks that see the same patches."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, patches: Tensor) -> Tensor:
        """Mean logits in float32, whatever the networks compute in."""
        first, *others = self.networks
        total: Tensor = first(patches).float()
        for network in others:
            total = total + network(patches)
        return total / len(self.networks)


def combine_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """One network that answers for all; a single one is returned as it is.

    Args:
        networks: One or more, in evaluation mode.
    """
    return networks[0] if len(networks) == 1 else MeanOfLogits(networks).eval()
