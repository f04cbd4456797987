"""The plan for this device and this budget: the network is timed for seconds before anything is chosen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from medunet.device import Precision, is_out_of_memory
from medunet.networks import replace_network
from medunet.planning import (
    CPU_EFFORT,
    GPU_EFFORT,
    Effort,
    Fingerprint,
    MemoryTarget,
    Plan,
    add_neighbour_slices,
    build_plan,
    choose_configuration,
    choose_memory_target,
    fit_effort,
    plan_locator,
)
from medunet.planning.architectures import describe_architecture
from medunet.planning.coarsening import MIN_PASSES
from medunet.planning.effort import BATCH_SIZE, describe_batch, format_time
from medunet.tasks import Task
from medunet.training.budget import Budget
from medunet.training.engine import measure_step_seconds
from medunet.training.memory import estimate_step_bytes, find_memory_gb, find_step_limit
from medunet.training.settings import TrainingSettings

_LARGEST_CPU_EFFORT = Effort(voxels=2 * 128**3, features=32)
_MEMORY_GB = 8.0
"""What the largest efforts are made for; a plan fills no more unless more is stated."""
LOW_SHARE = 1 / 6
"""Of a cascade's time, for each of the two networks at low resolution; the full resolution gets the rest."""
FULL_SHARE = 1 - 2 * LOW_SHARE
LOCATOR_SHARE = 0.1
"""Of a time, for the small network that finds where the structures are."""


class Plans(NamedTuple):
    """The plans of a training, each fitted to its share of the budget.

    Attributes:
        main: Of the network that segments.
        low: Of a cascade, of its first stage.
        locator: Of the small network that finds where the structures are.
    """

    main: Plan
    low: Plan | None = None
    locator: Plan | None = None


def fit_plans(
    fingerprint: Fingerprint,
    task: Task,
    budget: Budget,
    device: torch.device,
    settings: TrainingSettings,
    precision: Precision,
    *,
    has_partial_labels: bool = False,
) -> Plans:
    """All plans of a training.

    Args:
        fingerprint: As for `fit_plan`.
        task: As for `fit_plan`.
        budget: Of the whole training.
        device: As for `fit_plan`.
        settings: As for `fit_plan`.
        precision: As for `fit_plan`.
        has_partial_labels: Whether some cases were not searched for all labels; then nobody knows where the others are.
    """
    plan = fit_plan(fingerprint, task, budget, device, settings, precision)
    if plan.configuration == "cascade":
        low = replace(settings, configuration="3d-low")
        return Plans(plan, low=fit_plan(fingerprint, task, budget.take_share(LOW_SHARE), device, low, precision))
    if plan.configuration != "3d" or settings.locate == "never" or budget.is_full or has_partial_labels:
        return Plans(plan)
    locator, reason = plan_locator(fingerprint, task, plan)
    if locator is not None:
        plan = fit_plan(fingerprint, task, budget.take_share(1 - LOCATOR_SHARE), device, settings, precision)
        share = budget.take_share(LOCATOR_SHARE)
        bought = (
            f"{LOCATOR_SHARE:.0%} of the time, {format_time(share.seconds)}"
            if share.seconds is not None
            else _describe_iterations(locator, share, fingerprint)
        )
        locator = _add_reasons(locator, budget=bought, precision=_explain_precision(precision, device, settings))
    return Plans(plan.model_copy(update={"reasons": plan.reasons | {"locator": reason}}), locator=locator)


def fit_plan(
    fingerprint: Fingerprint,
    task: Task,
    budget: Budget,
    device: torch.device,
    settings: TrainingSettings,
    precision: Precision,
) -> Plan:
    """Fit patch, width and spacing to a budget.

    Time is spent on what this device can do in it. Iterations give a plan that no clock and no memory decides: one for
    CPUs, one for GPUs. A ``full`` budget is nnU-Net's own plan.

    Args:
        fingerprint: Of the dataset.
        task: Channels and labels.
        budget: Of one training; of a cascade, both stages together.
        device: That will train.
        settings: Configuration, preset and memory.
        precision: Of the network's arithmetic.

    Raises:
        InputError: If a low resolution is asked for where the rules see no need of one; or if a time is to be planned for,
            and the memory holds no step of even the smallest plan.
    """
    target: MemoryTarget | Effort = CPU_EFFORT if device.type == "cpu" else GPU_EFFORT
    more: dict[str, str] = {}
    if budget.is_full:
        target, more = _choose_memory_target(device, settings)
    configuration, why = settings.configuration, "as asked for"
    if configuration == "auto":
        configuration, why = choose_configuration(fingerprint, task, target)
    if configuration == "cascade":
        budget = budget.take_share(FULL_SHARE)
    if budget.seconds is not None and not budget.is_full:
        limit = find_step_limit(device, settings.memory_gb)
        fitted = fit_effort(
            fingerprint,
            task,
            budget.seconds,
            lambda plan: _measure(plan, task, device, precision, limit),
            largest=_find_largest(device, settings.memory_gb),
            configuration=configuration,
            finish=lambda plan: _put_network(plan, settings),
        )
        target, more["budget"] = fitted.effort, fitted.reason
    elif isinstance(target, Effort):
        # Of a counted number of steps, many small ones are worth more than few large ones, as in `fit_effort`.
        target = replace(target, batch_size=BATCH_SIZE.get(configuration, 2))
        if settings.memory_gb is not None:
            target = replace(target, voxels=min(target.voxels, _find_largest(device, settings.memory_gb).voxels))
    if configuration in ("3d-low", "cascade") and isinstance(target, Effort):
        # Where there is a low resolution, the full one is not made coarser for the budget: nothing would be between them.
        target = replace(target, total_voxels=None)
    plan = _put_network(build_plan(fingerprint, task, target, configuration), settings)
    if "budget" in more and f"steps with {describe_batch(plan)}" not in more["budget"]:
        more["budget"] += f"; its coarser voxels make of the patches that were timed {describe_batch(plan)}"
    if budget.iterations is not None and not budget.is_full:
        more["budget"] = _describe_iterations(plan, budget, fingerprint)
    more["precision"] = _explain_precision(precision, device, settings)
    return plan.model_copy(update={"reasons": {"configuration": why} | plan.reasons | more})


def _choose_memory_target(device: torch.device, settings: TrainingSettings) -> tuple[MemoryTarget, dict[str, str]]:
    """What a ``full`` budget fills, and the reason of a preset that was chosen here."""
    if settings.preset != "residual":
        return MemoryTarget(preset=settings.preset, memory_gb=settings.memory_gb), {}
    if settings.memory_gb is not None:
        target = choose_memory_target(settings.memory_gb)
        whose = f"{settings.memory_gb:g} GB, as stated"
    elif device.type == "cpu":
        target, whose = MemoryTarget(preset="M"), "the CPU, which computes the larger ones too slowly"
    else:
        free_gb = find_memory_gb(device)
        target, whose = choose_memory_target(free_gb), f"the {free_gb:.1f} GB that are free on {device}"
        if target.memory_scale > 1:  # a larger device gets the preset as nnU-Net made it
            target = replace(target, memory_gb=None)
    return target, {"preset": f"{target.preset}, the largest residual one for {whose}"}


def _measure(plan: Plan, task: Task, device: torch.device, precision: Precision, limit: float | None) -> float:
    """Seconds of a training step; infinite where the memory does not hold it."""
    if limit is not None and estimate_step_bytes(plan, precision) > limit:
        return math.inf
    try:
        return measure_step_seconds(plan, task, device, precision)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if device.type == "cuda":  # here, not above: as long as the error is handled, it holds on to what the step had
        torch.cuda.empty_cache()
    return math.inf


def _put_network(plan: Plan, settings: TrainingSettings) -> Plan:
    """The plan with the neighbour slices, the augmentation and the network that were asked for."""
    if settings.neighbour_slices is not None:
        plan = add_neighbour_slices(plan, settings.neighbour_slices)
    if settings.augmentation == "unet2015":
        plan = plan.model_copy(update={"augmentation": "unet2015"})
        plan = _add_reasons(plan, augmentation="deformations as in the U-Net's paper, as asked for")
    elif settings.augmentation != "fast":
        text = "none is applied" if settings.augmentation == "none" else f"{plan.reasons['augmentation']}; by TorchIO"
        plan = _add_reasons(plan, augmentation=f"{text}, as asked for")
    if settings.network == "auto":
        return plan
    return replace_network(plan, settings.network, settings.parse_network_options())


def _add_reasons(plan: Plan, **reasons: str) -> Plan:
    return plan.model_copy(update={"reasons": plan.reasons | reasons})


def _describe_iterations(plan: Plan, budget: Budget, fingerprint: Fingerprint) -> str:
    """What counted steps of a plan show; nothing is timed, so that they are the same wherever they are counted."""
    assert budget.iterations is not None
    voxels = math.prod(plan.patch_size) * plan.batch_size
    num_passes = budget.iterations * voxels / (math.prod(plan.median_shape) * fingerprint.num_cases)
    reason = (
        f"{budget.iterations:,} steps with {describe_batch(plan)} show every voxel of the dataset {num_passes:.3g} times; nothing "
        "was timed, so that the plan does not depend on the clock"
    )
    if num_passes < MIN_PASSES:
        enough = math.ceil(budget.iterations * MIN_PASSES / num_passes)
        reason += f"; {MIN_PASSES} times are wanted, which {enough:,} steps buy"
    return reason


def _explain_precision(precision: Precision, device: torch.device, settings: TrainingSettings) -> str:
    if settings.precision != "auto":
        return f"{precision}, as asked for"
    if precision == "32-true":
        return f"{precision}: {device.type} does not multiply numbers of 16 bits natively"
    which = "bfloat16" if precision == "bf16-mixed" else "float16, but not bfloat16,"
    return f"{precision}: {device.type} multiplies {which} natively, which takes half the time and memory"


def _find_largest(device: torch.device, memory_gb: float | None) -> Effort:
    """The largest batch that a time may lead to, in proportion to the memory: what is stated, else 8 GB or what is free."""
    largest = _LARGEST_CPU_EFFORT if device.type == "cpu" else GPU_EFFORT
    if memory_gb is None:
        # On the CPU, what each plan takes is estimated before it is timed.
        memory_gb = _MEMORY_GB if device.type == "cpu" else min(_MEMORY_GB, find_memory_gb(device))
    return replace(largest, voxels=round(largest.voxels * memory_gb / _MEMORY_GB))


def describe_plan(plan: Plan) -> str:
    """One line: network, patch, batch, spacing."""
    spacing = " x ".join(f"{mm:.2f}" for mm in plan.spacing)
    patch = " x ".join(str(size) for size in plan.patch_size)
    features = f"{plan.network.features[0]} to {max(plan.network.features)}"
    kind = f"{plan.configuration} {describe_architecture(plan.network.architecture)}"
    return (
        f"{kind}, {len(plan.network.features)} stages of {features} channels; "
        f"patches of {patch} voxels at {spacing} mm, {plan.batch_size} per batch"
    )
