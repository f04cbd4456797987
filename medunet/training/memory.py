"""How much memory a training may take here, and how much a step of a plan takes.

A GPU says so itself when its memory runs out. A computer begins to swap, or ends the process without a word, so that what its
memory does not hold must be known before it is tried.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from medunet.device import Precision, measure_free_memory
from medunet.networks import build_network
from medunet.networks.cost import count_parameters, count_saved_bytes
from medunet.planning import Plan

_GIB = 2**30
_GB = 1e9
"""Graphics cards are sold by these; of one of 8 GB a little more than 8 of them are free."""
_HOST_GIB = 6.0
"""What a training on the CPU takes, where nobody states more."""
_FREE_SHARE = 0.9
"""Of the free memory, that a training on the CPU may take."""
_PROGRAM_GIB = 0.5
"""Python, torch and what medunet imports, the patches that wait, and the loss."""
CASES_GIB = 4.0
"""What preprocessed cases may take at most; of more, patches are read from disk."""
_WORK: Mapping[Precision, float] = {"32-true": 1.5, "bf16-mixed": 1.0, "16-mixed": 1.0}
"""Of `count_saved_bytes`, measured with steps on the CPU: what is kept for the way back, and gradients."""
_COPIES = 5
"""Of the weights: themselves, gradients, two moments and the running mean, all float32."""


def find_memory_gb(device: torch.device) -> float:
    """Free memory of the device that trains, 10^9 bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free / _GB
    return measure_free_memory() / _GB


def find_step_limit(device: torch.device, memory_gb: float | None) -> float | None:
    """Bytes that a training step may take of the host's memory; None for a GPU, which has its own and says when it is full.

    Args:
        device: That trains.
        memory_gb: What the user states for the whole training; None for 6 GiB, or 90 % of what is free where that is less.
    """
    if device.type != "cpu":
        return None
    if memory_gb is not None:  # hardly anybody states so little that the program takes half of it
        return max(memory_gb * _GB - _PROGRAM_GIB * _GIB, memory_gb * _GB / 2)
    return min(_HOST_GIB * _GIB, _FREE_SHARE * measure_free_memory()) - _PROGRAM_GIB * _GIB


def estimate_step_bytes(plan: Plan, precision: Precision) -> float:
    """What one training step of a plan takes on the CPU, rather too much than too little.

    Args:
        plan: Network, patch and batch.
        precision: Of the network's arithmetic.
    """
    with torch.device("meta"):
        network = build_network(plan.network)
    saved = count_saved_bytes(network, plan.network.in_channels, plan.patch_size, plan.batch_size)
    return _WORK[precision] * saved + _COPIES * 4 * count_parameters(network)


def limit_cases_gib(plan: Plan, precision: Precision, device: torch.device, memory_gb: float | None) -> float:
    """Memory for preprocessed cases, GiB: 4; on the CPU, what steps of the plan leave, if that is less.

    Args:
        plan: That is trained.
        precision: Of the network's arithmetic.
        device: That trains.
        memory_gb: As for `find_step_limit`.
    """
    limit = find_step_limit(device, memory_gb)
    if limit is None:
        return CASES_GIB
    return min(CASES_GIB, max(0.0, (limit - estimate_step_bytes(plan, precision)) / _GIB))
