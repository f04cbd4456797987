"""A running mean of the weights: it is steadier than the last weights and costs no further step of the network.

Polyak 1992, doi:10.1137/0330046; with the warm-up of TensorFlow's ``ExponentialMovingAverage``.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def build_average(network: nn.Module) -> nn.Module:
    """A copy of a network that holds the mean of its weights; nothing in it asks for gradients."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def update_average(average: nn.Module, network: nn.Module, *, decay: float, num_updates: int) -> None:
    """Move the mean towards the present weights, in place.

    Args:
        average: From `build_average`.
        network: That learns.
        decay: Share of the mean that stays, such as 0.999; see `compute_decay`.
        num_updates: Done before this one.
    """
    weight = 1 - compute_decay(decay, num_updates)
    with torch.no_grad():
        # One call for all tensors: on a GPU one small kernel per tensor would cost more than the arithmetic.
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), weight)
        for mean, buffer in zip(average.buffers(), network.buffers(), strict=True):
            mean.copy_(buffer)  # counters and statistics are means already, or have none


def compute_decay(decay: float, num_updates: int) -> float:
    """Low at first, so that the random weights of the start are soon forgotten.

    Example:
        >>> [round(compute_decay(0.999, n), 3) for n in (0, 8, 90, 100_000)]
        [0.1, 0.5, 0.91, 0.999]
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))
