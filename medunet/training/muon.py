"""Muon: the step of every convolution is made orthogonal, so that no direction of its weights learns faster than others.

A budget buys few steps, and this one gets furthest in few; `benchmarks/bench_optimizer.py` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from medunet.networks.cost import count_orthogonal_gflop

MIN_CHANNELS = 8
"""A weight with fewer channels on one side is left to AdamW, as Jordan advises for the first layer and the last."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_ADAM_BETAS = (0.9, 0.999)
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for the weights of layers inside the network; AdamW for all other weights.

    Jordan 2024 (kellerjordan.github.io/posts/muon), with the scale by which Liu 2025 (arXiv:2502.16982) give a step the
    size of AdamW's, so that one learning rate serves both. `torch.optim.Muon` knows matrices only.

    Args:
        parameters: Weights of convolutions and of linear layers are matrices of output by everything else; those of
            transposed convolutions, of input by everything else.
        lr: Learning rate.
        weight_decay: Decoupled, of all weights.
        momentum: Decay per step of the running mean of gradients, which is applied with Nesterov's look ahead.
        max_gflop: What making one matrix orthogonal may cost; dearer ones are left to AdamW. None: no limit.
        fused: Whether AdamW runs fused and a ``found_inf`` tensor, set by the caller, may forbid a step: weights and
            moments then stay as they are, and a GPU is not waited for.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        max_gflop: float | None = None,
        fused: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "max_gflop": max_gflop,
            "fused": fused,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Change all weights that have a gradient.

        Raises:
            NotImplementedError: If a closure is given.
        """
        if closure is not None:
            msg = "Muon does not evaluate closures; compute the gradients before step()."
            raise NotImplementedError(msg)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            others = []
            for parameter in parameters:
                if _is_inner(parameter) and _is_affordable(parameter, group["max_gflop"]):
                    self._step_orthogonal(parameter, group)
                else:
                    others.append(parameter)
            self._step_adamw(others, group)

    def _step_orthogonal(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, rate = parameter.grad, group["lr"]
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        if self.found_inf is not None:
            gradient = torch.where(self.found_inf > 0, momentum, gradient)
            rate = rate * (1 - self.found_inf)
        momentum.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])
        update = orthogonalize(ahead.flatten(1)).view(ahead.shape)
        # An orthogonal matrix of n x m, n <= m, has the root mean square 1 / sqrt(m); AdamW's steps have about 0.2.
        scale = 0.2 * max(ahead.shape[0], ahead[0].numel()) ** 0.5
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.sub_(update * (rate * scale))

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=_ADAM_BETAS[0],
            beta2=_ADAM_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=_EPSILON,
            maximize=False,
        )


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix close to 1: between about 0.7 and 1.2, unless they were tiny.

    Jordan's polynomial of fifth degree, five times. It is applied to the small Gram matrix, which needs two products with
    the large one instead of ten.

    Args:
        matrix: Of n x m; all zeros stay zeros.

    Returns:
        float32, of the same shape.
    """
    wide = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().T
    norm = torch.linalg.vector_norm(wide) + _EPSILON
    gram = (wide @ wide.T) / norm**2
    a, b, c = _COEFFICIENTS
    product = torch.eye(len(gram), device=gram.device)
    for _ in range(_NUM_ITERATIONS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    result: Tensor = (product / norm) @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


def _is_inner(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[:2]) >= MIN_CHANNELS


def _is_affordable(parameter: Tensor, max_gflop: float | None) -> bool:
    return max_gflop is None or count_orthogonal_gflop(parameter.shape) <= max_gflop
