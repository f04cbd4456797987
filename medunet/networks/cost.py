"""What a network costs: parameters and arithmetic, counted without doing any."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_gflop(network: nn.Module, in_channels: int, patch_size: Sequence[int]) -> float:
    """10^9 multiplications and additions of convolutions and matrix products in one pass over one patch.

    Normalisations, activations, poolings and interpolations are not counted.

    Args:
        network: Built with ``torch.device("meta")``, so that nothing is computed or allocated.
        in_channels: Input channels.
        patch_size: As the network takes it.
    """
    was_training = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty((1, in_channels, *patch_size), device="meta"))
    network.train(was_training)
    return float(counter.get_total_flops()) / 1e9
