"""The plan for this device and this budget: the network is timed for seconds before anything is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from medunet.device import Precision
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
    fit_effort,
    plan_locator,
)
from medunet.planning.architectures import describe_architecture
from medunet.planning.effort import BATCH_SIZE
from medunet.tasks import Task
from medunet.training.budget import Budget
from medunet.training.engine import measure_step_seconds
from medunet.training.settings import TrainingSettings

_LARGEST_CPU_EFFORT = Effort(voxels=2 * 128**3, features=32)
_MEMORY_GB = 8.0
"""What the largest efforts are made for."""
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

    Time is spent on what this device can do in it, iterations give the same plan everywhere, and a ``full`` budget is
    nnU-Net's own plan.

    Args:
        fingerprint: Of the dataset.
        task: Channels and labels.
        budget: Of one training; of a cascade, both stages together.
        device: That will train.
        settings: Configuration, preset and memory.
        precision: Of the network's arithmetic.
    """
    target: MemoryTarget | Effort = CPU_EFFORT if device.type == "cpu" else GPU_EFFORT
    if budget.is_full:
        target = MemoryTarget(preset=settings.preset, memory_gb=settings.memory_gb)
    configuration, why = settings.configuration, "as asked for"
    if configuration == "auto":
        configuration, why = choose_configuration(fingerprint, task, target)
    if configuration == "cascade":
        budget = budget.take_share(FULL_SHARE)
    reasons = {"configuration": why}
    if budget.seconds is not None and not budget.is_full:
        fitted = fit_effort(
            fingerprint,
            task,
            budget.seconds,
            lambda plan: measure_step_seconds(_put_network(plan, settings), task, device, precision),
            largest=_find_largest(device, settings.memory_gb),
            configuration=configuration,
        )
        target, reasons["budget"] = fitted.effort, fitted.reason
    elif isinstance(target, Effort):
        # Of a counted number of steps, many small ones are worth more than few large ones, as in `fit_effort`.
        target = replace(target, batch_size=BATCH_SIZE.get(configuration, 2))
        if settings.memory_gb is not None:
            target = replace(target, voxels=min(target.voxels, _find_largest(device, settings.memory_gb).voxels))
    if configuration in ("3d-low", "cascade") and isinstance(target, Effort):
        # Where there is a low resolution, the full one is not made coarser for the budget: nothing would be between them.
        target = replace(target, total_voxels=None)
    plan = _put_network(build_plan(fingerprint, task, target, configuration), settings)
    return plan.model_copy(update={"reasons": reasons | plan.reasons})


def _put_network(plan: Plan, settings: TrainingSettings) -> Plan:
    """The plan with the neighbour slices, the augmentation and the network that were asked for."""
    if settings.neighbour_slices is not None:
        plan = add_neighbour_slices(plan, settings.neighbour_slices)
    if settings.augmentation == "unet2015":
        plan = plan.model_copy(update={"augmentation": "unet2015"})
    if settings.network == "auto":
        return plan
    return replace_network(plan, settings.network, settings.parse_network_options())


def _find_largest(device: torch.device, memory_gb: float | None) -> Effort:
    """The largest batch that a budget may lead to, in proportion to the memory."""
    largest = _LARGEST_CPU_EFFORT if device.type == "cpu" else GPU_EFFORT
    return largest if memory_gb is None else replace(largest, voxels=round(largest.voxels * memory_gb / _MEMORY_GB))


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
