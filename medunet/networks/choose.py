"""Another network in a plan, at the price of the planned U-Net, so that what is compared is the network.

The planner shapes patch, spacing and a U-Net after dataset and budget. Another network takes the U-Net's place: its width is
the largest with which a patch costs no more arithmetic than it would have, unless a width is asked for; the patch grows to
the next size that it takes. That holds for the planner's other U-Net too, whose blocks cost something else.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from medunet.errors import InputError
from medunet.networks.build import build_network, find_slice_axis
from medunet.networks.catalogue import Architecture, find_architecture
from medunet.networks.config import NetworkConfig, list_options
from medunet.networks.cost import count_gflop, count_orthogonal_gflop
from medunet.planning import NetworkPlan, Plan
from medunet.planning.stages import MAX_FEATURES, choose_blocks, choose_features
from medunet.volume import Shape3

_MAX_WIDENING = 16
"""Times the paper's width that a network may get."""
_ORTHOGONAL_SHARE = 0.25
"""Of the arithmetic of a training step that Muon may add."""


def replace_network(
    plan: Plan, name: str, options: Mapping[str, Any] | None = None, *, gflop: float | None = None
) -> Plan:
    """The plan with another network.

    Args:
        plan: Of the planner.
        name: Of `medunet.networks.catalogue`; the plan stays as it is if it has that network already.
        options: Fields of the network's config; with ``width`` it costs what it costs.
        gflop: What a patch may cost; None for what it costs with the plan's network. With a number the plan's own network
            is fitted too.

    Raises:
        InputError: If there is no such network or option.
    """
    architecture = find_architecture(name)
    if architecture.is_planned:
        return _replace_blocks(plan, architecture, options, gflop)
    slice_axis = find_slice_axis(plan.network)
    axes = [axis for axis in range(3) if axis != slice_axis]
    flat = tuple(plan.patch_size[axis] for axis in axes)

    def build_config(more: Mapping[str, Any]) -> NetworkConfig:
        network = plan.network
        fields = dict(options or {}) | dict(more)
        return architecture.build_config(flat, network.in_channels, network.out_channels, fields)

    budget = count_plan_gflop(plan) if gflop is None else gflop
    if "width" in (options or {}):
        config, why = build_config({}), "the width that was asked for"
    else:
        config = fit_width(
            lambda width: build_config({"width": width}), build_config({}).width, architecture, flat, budget
        )
        is_narrowest = config.width == config.width_step
        why = _describe_width(_count_config_gflop(architecture, config, flat), budget, gflop, is_narrowest=is_narrowest)
    size = config.find_next_size(flat)
    cost = _count_config_gflop(architecture, config, size)
    patch_size = _spread(size, axes)
    network = _describe_network(plan.network, architecture, config, slice_axis)
    reasons = plan.reasons | {
        "network": f"{architecture.title} as asked for; {config.width} channels in the first stage, {why}; a patch costs {cost:.3g} GFLOP"
    }
    if patch_size != plan.patch_size:
        reasons["patch_size"] = (
            f"{plan.reasons.get('patch_size', '')}; grown from {'x'.join(map(str, plan.patch_size))} to what {architecture.title} takes"
        )
    plan = plan.model_copy(update={"network": network, "patch_size": patch_size, "reasons": reasons})
    return _limit_optimizer(plan, cost)


def count_plan_gflop(plan: Plan) -> float:
    """Arithmetic of one pass of a plan's network over one patch, 10^9 multiplications and additions."""
    return _count_network_gflop(plan.network, plan.patch_size)


def fit_features(network: NetworkPlan, patch_size: Sequence[int], gflop: float) -> NetworkPlan:
    """The widest of the planner's U-Nets of this shape that costs no more; the narrowest where none is so cheap.

    Widths follow the planner's rule (`choose_features`): they double from stage to stage up to a limit, which ends the search.

    Args:
        network: One of the planner's.
        patch_size: Three axes, as the network takes it.
        gflop: What it may cost.
    """
    num_stages, dims = len(network.features), network.spatial_dims

    def widen(base: int) -> NetworkPlan:
        return network.model_copy(update={"features": choose_features(num_stages, dims, base=base)})

    bases = range(1, MAX_FEATURES[dims] + 1)
    num_affordable = bisect_right(bases, gflop, key=lambda base: _count_network_gflop(widen(base), patch_size))
    return widen(bases[max(0, num_affordable - 1)])


def fit_width(
    build_config: Callable[[int], NetworkConfig],
    paper_width: int,
    architecture: Architecture,
    patch_size: tuple[int, ...],
    gflop: float,
) -> NetworkConfig:
    """The widest network that costs no more, between the narrowest there is and 16 times the paper's.

    Args:
        build_config: From a width.
        paper_width: Where the search begins.
        architecture: That is built.
        patch_size: Of one patch, before it grows to what the network takes.
        gflop: What it may cost.
    """
    step = build_config(paper_width).width_step
    known: dict[int, float] = {}

    def cost(steps: int) -> float:
        if steps not in known:
            known[steps] = _count_config_gflop(architecture, build_config(steps * step), patch_size)
        return known[steps]

    # Arithmetic grows nearly with the square of the width: guess by that, then halve what is left.
    last = max(1, _MAX_WIDENING * paper_width // step)
    guess = max(1, paper_width // step)
    guess = min(last, max(1, round(guess * math.sqrt(gflop / cost(guess)))))
    low, high = (guess, min(last, guess + 1)) if cost(guess) <= gflop else (1, guess)
    while low == guess and high < last and cost(high) <= gflop:
        low, high, guess = high, min(last, 2 * high), high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= gflop else (low, middle)
    best = high if cost(high) <= gflop else low
    return build_config(best * step)


def _limit_optimizer(plan: Plan, gflop: float) -> Plan:
    """What Muon may spend on one matrix of weights, such that all of them together cost no more than a share of a step.

    The planned U-Nets have no matrix that matters. The fully connected layers of FCN, or a transformer's over few tokens,
    would make an optimiser's step many times as dear as the network.

    Args:
        plan: With the network.
        gflop: Of one pass over one patch.
    """
    if plan.optimizer.name != "muon":
        return plan
    affordable = _ORTHOGONAL_SHARE * 3 * plan.batch_size * gflop  # backward costs twice as much as forward
    with torch.device("meta"):
        weights = [weight.shape for weight in build_network(plan.network).parameters() if weight.ndim >= 2]
    costs = [count_orthogonal_gflop(shape) for shape in weights]
    if sum(costs) <= affordable:
        return plan
    # Layers of the same shape cost the same: all of them or none.
    limits = [limit for limit in costs if sum(cost for cost in costs if cost <= limit) <= affordable]
    limit = max(limits, default=0.0)
    why = f"AdamW for matrices whose step costs more than {limit:.3g} GFLOP to make orthogonal, where the network would wait for it"
    return plan.model_copy(
        update={
            "optimizer": plan.optimizer.model_copy(update={"max_orthogonal_gflop": limit}),
            "reasons": plan.reasons | {"optimizer": f"{plan.reasons.get('optimizer', '')}; {why}"},
        }
    )


def _count_config_gflop(architecture: Architecture, config: NetworkConfig, patch_size: tuple[int, ...]) -> float:
    with torch.device("meta"):
        network = architecture.build_network(config)
    return count_gflop(network, config.in_channels, config.find_next_size(patch_size))


def _count_network_gflop(network: NetworkPlan, patch_size: Sequence[int]) -> float:
    with torch.device("meta"):
        built = build_network(network)
    return count_gflop(built, network.in_channels, patch_size)


def _describe_width(cost: float, budget: float, gflop: float | None, *, is_narrowest: bool) -> str:
    """Why a network is as wide as it is.

    Args:
        cost: Of a patch.
        budget: What a patch may cost.
        gflop: The same if it was asked for, None if it is the cost of the planned U-Net.
        is_narrowest: Whether a narrower network cannot be.
    """
    if is_narrowest and cost > budget:
        less = "the planned U-Net would cost less" if gflop is None else "less was asked for"
        return f"the narrowest there is, though {less} ({budget:.3g} GFLOP)"
    limit = "the planned U-Net" if gflop is None else "was asked for"
    return f"the widest that costs no more than {limit} ({budget:.3g} GFLOP)"


def _replace_blocks(
    plan: Plan, architecture: Architecture, options: Mapping[str, Any] | None, gflop: float | None
) -> Plan:
    """The planner's own U-Nets differ in their blocks, and so in the width that a patch can afford."""
    if options:
        msg = f"The network '{architecture.name}' takes no options: the planner shapes it after the patch."
        raise InputError(msg)
    if architecture.name == plan.network.architecture and gflop is None:
        return plan
    budget = count_plan_gflop(plan) if gflop is None else gflop
    blocks = choose_blocks(
        "residual-unet" if architecture.name == "residual-unet" else "unet", len(plan.network.features)
    )
    shaped = plan.network.model_copy(
        update={
            "architecture": architecture.name,
            "encoder_blocks": blocks.encoder,
            "decoder_convolutions": blocks.decoder,
        }
    )
    network = fit_features(shaped, plan.patch_size, budget)
    base, cost = network.features[0], _count_network_gflop(network, plan.patch_size)
    why = _describe_width(cost, budget, gflop, is_narrowest=base == 1)
    reason = (
        f"{architecture.title} as asked for, {len(network.features)} stages as planned; {base} channels in the first stage, "
        f"{why}; a patch costs {cost:.3g} GFLOP"
    )
    return plan.model_copy(update={"network": network, "reasons": plan.reasons | {"network": reason}})


def _describe_network(
    planned: NetworkPlan, architecture: Architecture, config: NetworkConfig, slice_axis: int | None
) -> NetworkPlan:
    def spread(number: int) -> Shape3:
        return _spread((number,) * config.spatial_dims, [axis for axis in range(3) if axis != slice_axis])

    stages = config.stages
    return NetworkPlan(
        architecture=architecture.name,
        spatial_dims=config.spatial_dims,
        in_channels=planned.in_channels,
        out_channels=planned.out_channels,
        features=tuple(stage.features for stage in stages),
        strides=tuple(spread(stage.stride) for stage in stages),
        kernels=(spread(3),) * len(stages),
        encoder_blocks=tuple(stage.convolutions for stage in stages),
        decoder_convolutions=(),
        num_scales=config.num_scales,
        options=list_options(config),
    )


def _spread(numbers: tuple[int, ...], axes: list[int]) -> Shape3:
    """Numbers of the network's axes as numbers of R, A and S; 1 along the slice axis."""
    spread = [1, 1, 1]
    for axis, number in zip(axes, numbers, strict=True):
        spread[axis] = number
    i, j, k = spread
    return i, j, k
