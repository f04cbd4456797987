"""Sums over the processes of a distributed training, so that N processes learn what one would with N times the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def sum_over_processes(values: Tensor) -> Tensor:
    """Add up what every process holds; differentiable.

    The gradient is right under two conditions, which the losses of this package meet: every process computes the *same*
    function of the sums, and the gradients of the processes are then *averaged*, as DistributedDataParallel does.

    Args:
        values: Sums of this process; the same shape in every process.

    Returns:
        The sums over all processes; ``values`` itself where there is one process, or none was set up.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values
    return _SumOverProcesses.apply(values)  # type: ignore[no-any-return,no-untyped-call]


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient needs no second exchange.

    With the sums ``s_r`` of process r, ``S = s_1 + ... + s_N`` and the same loss ``L(S)`` everywhere, the gradient of the
    whole batch is ``dL/dS * sum_r ds_r/dw``. DistributedDataParallel averages, that is ``1/N * sum_r g_r``; so process r
    must hand it ``g_r = N * dL/dS * ds_r/dw``. As ``dL/dS`` is the same number in all processes, each has it already.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.num_processes = distributed.get_world_size()
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        scaled: Tensor = gradients[0] * ctx.num_processes
        return scaled
