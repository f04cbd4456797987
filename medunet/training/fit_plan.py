"""The plan for this device and this budget: the network is timed for seconds before anything is chosen."""

from __future__ import annotations

import torch

from medunet.device import choose_precision
from medunet.planning import CPU_EFFORT, GPU_EFFORT, Configuration, Effort, Fingerprint, Plan, build_plan, fit_effort
from medunet.tasks import Task
from medunet.training.budget import Budget
from medunet.training.loop import measure_step_seconds

_LARGEST_CPU_EFFORT = Effort(voxels=2 * 128**3, features=32)


def fit_plan(
    fingerprint: Fingerprint, task: Task, budget: Budget, device: torch.device, configuration: Configuration
) -> Plan:
    """Fit patch, width and spacing to a budget in time; a budget in iterations gives the same plan everywhere.

    Args:
        fingerprint: Of the dataset.
        task: Channels and labels.
        budget: Time or iterations.
        device: That will train.
        configuration: What to train.
    """
    is_cpu = device.type == "cpu"
    if budget.seconds is None:
        return build_plan(fingerprint, task, CPU_EFFORT if is_cpu else GPU_EFFORT, configuration)
    precision = choose_precision(device)
    fitted = fit_effort(
        fingerprint,
        task,
        budget.seconds,
        lambda plan: measure_step_seconds(plan, task, device, precision),
        largest=_LARGEST_CPU_EFFORT if is_cpu else GPU_EFFORT,
        configuration=configuration,
    )
    plan = build_plan(fingerprint, task, fitted.effort, configuration)
    return plan.model_copy(update={"reasons": plan.reasons | {"budget": fitted.reason}})


def describe_plan(plan: Plan) -> str:
    """One line: network, patch, batch, spacing."""
    spacing = " x ".join(f"{mm:.2f}" for mm in plan.spacing)
    patch = " x ".join(str(size) for size in plan.patch_size)
    features = f"{plan.network.features[0]} to {max(plan.network.features)}"
    return (
        f"{plan.configuration} U-Net, {len(plan.network.features)} stages of {features} channels; "
        f"patches of {patch} voxels at {spacing} mm, {plan.batch_size} per batch"
    )
