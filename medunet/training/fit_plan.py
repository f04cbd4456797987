"""The plan for this device and this budget: the network is timed for seconds before anything is chosen."""

from __future__ import annotations

import torch

from medunet.device import choose_precision
from medunet.planning import CPU_EFFORT, GPU_EFFORT, Configuration, Effort, Fingerprint, Plan, build_plan, fit_effort
from medunet.tasks import Task
from medunet.training.budget import Budget
from medunet.training.loop import measure_step_seconds

MIN_ITERATIONS = 1200
"""Steps that a time budget should pay for: on the hippocampus, many cheap steps gave a better Dice than few dear ones."""
_LARGEST_CPU_EFFORT = Effort(voxels=2 * 96**3, features=32)


def fit_plan(
    fingerprint: Fingerprint, task: Task, budget: Budget, device: torch.device, configuration: Configuration
) -> Plan:
    """Fit patch, width and spacing to a budget in time; a budget in iterations gives the same plan everywhere.

    Args:
        fingerprint: Of the dataset.
        task: Channels and labels.
        budget: Time or iterations.
        device: That will train.
        configuration: ``"3d"`` or ``"2d"``.
    """
    is_cpu = device.type == "cpu"
    effort = CPU_EFFORT if is_cpu else GPU_EFFORT
    if budget.seconds is not None:
        precision = choose_precision(device)
        effort, _ = fit_effort(
            fingerprint,
            task,
            budget.seconds,
            lambda plan: measure_step_seconds(plan, task, device, precision),
            largest=_LARGEST_CPU_EFFORT if is_cpu else GPU_EFFORT,
            min_iterations=MIN_ITERATIONS,
            configuration=configuration,
        )
    return build_plan(fingerprint, task, effort, configuration)


def describe_plan(plan: Plan) -> str:
    """One line: network, patch, batch, spacing."""
    spacing = " x ".join(f"{mm:.2f}" for mm in plan.spacing)
    patch = " x ".join(str(size) for size in plan.patch_size)
    features = f"{plan.network.features[0]} to {max(plan.network.features)}"
    return (
        f"{plan.configuration} U-Net, {len(plan.network.features)} stages of {features} channels; "
        f"patches of {patch} voxels at {spacing} mm, {plan.batch_size} per batch"
    )
