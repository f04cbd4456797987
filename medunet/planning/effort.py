"""What a budget in time pays for on this device: efforts are timed, and the dearest that leaves enough steps is taken.

nnU-Net's plan fills the memory and takes 250,000 steps, whatever time there is. With little time, steps are worth more
than anything else, then a patch that shows much of the patient, then width, and larger batches last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medunet.errors import InputError
from medunet.planning.architectures import TITLES
from medunet.planning.fingerprint import Fingerprint
from medunet.planning.plan import Configuration, Plan
from medunet.planning.planner import build_plan
from medunet.planning.targets import Effort
from medunet.tasks import Task

PATCH_EDGES = (32, 40, 48, 56, 64, 72, 80, 96, 112, 128)
"""Edges of a cube with as many voxels as a patch may have."""
NARROW_FEATURES = 16
MIN_ITERATIONS = 1500
"""Steps that every effort must leave."""
MIN_ITERATIONS_FOR_FULL_RESOLUTION = 2_000
"""Steps that must be left before the finest stage gets its whole width: half of the arithmetic is there, and it adds least."""
MIN_ITERATIONS_FOR_BATCHES = {2: 20_000, 4: 40_000}
"""Steps that a batch of so many times the usual one must leave."""
BATCH_SIZE = {"2d": 12, "2.5d": 12}
"""Patches per batch; 2 where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """An effort, and the steps that a budget must pay for before it is worth its price."""

    effort: Effort
    min_iterations: int


@dataclass(frozen=True, kw_only=True)
class FittedEffort:
    """What a budget pays for.

    Attributes:
        effort: To plan with.
        seconds_per_step: Measured on this device.
        num_iterations: Steps that the budget pays for.
        reason: Why, and what a larger budget would buy.
    """

    effort: Effort
    seconds_per_step: float
    num_iterations: int
    reason: str


def fit_effort(
    fingerprint: Fingerprint,
    task: Task,
    budget_seconds: float,
    measure_step: Callable[[Plan], float],
    *,
    largest: Effort,
    configuration: Configuration = "3d",
    finish: Callable[[Plan], Plan] | None = None,
) -> FittedEffort:
    """The last rung of `list_rungs` that the budget can afford and the memory holds; the first when the budget affords none.

    Args:
        fingerprint: Of the training cases.
        task: Channels and labels.
        budget_seconds: Time for training.
        measure_step: Seconds that one training step of a plan takes on this device; infinite where the memory does not
            hold it.
        largest: What the device's memory admits.
        configuration: As in `build_plan`.
        finish: Makes of a plan what is trained, such as the same with another network; None leaves it as it is.

    Raises:
        InputError: If a low resolution is asked for, and even the smallest patch leaves no need of one; or if the memory
            does not hold even the smallest plan.
    """
    rungs = list_rungs(largest, configuration)
    plans = _plan_rungs(fingerprint, task, rungs, configuration)
    # Patches that fill the memory leave no room for larger batches.
    num_fitting = next((n for n, plan in enumerate(plans) if n and _count_voxels(plan) > largest.voxels), len(plans))
    rungs, plans = rungs[:num_fitting], plans[:num_fitting]
    measured: dict[str, tuple[float, Plan]] = {}

    def measure(index: int) -> tuple[float, Plan]:
        # Small cases give the same plan for many rungs: none is timed twice.
        key = plans[index].network.model_dump_json() + str((plans[index].patch_size, plans[index].batch_size))
        if key not in measured:
            finished = plans[index] if finish is None else finish(plans[index])
            measured[key] = measure_step(finished), finished
        return measured[key]

    def is_affordable(index: int) -> bool:
        seconds, _ = measure(index)
        return seconds * rungs[index].min_iterations <= budget_seconds

    # Halve the list: timing every rung, the dearest ones above all, could take longer than a small budget.
    first, last = 0, len(rungs) - 1
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if is_affordable(middle) else (first, middle - 1)
    seconds, plan = measure(first)
    if math.isinf(seconds):
        msg = (
            f"The memory here does not hold a training step of even the smallest plan ({describe_batch(plan)}). Close other "
            "programs, use a device with more memory, or raise --memory-gb where that was given."
        )
        raise InputError(msg)
    num_iterations = max(1, int(budget_seconds / seconds))
    reason = (
        f"a step takes {seconds:.3g} s here (timed uncompiled and without loading data), so "
        f"{format_time(budget_seconds)} buy {num_iterations:,} steps with {describe_batch(plan)}"
    )
    return FittedEffort(
        effort=replace(rungs[first].effort, total_voxels=float(num_iterations) * _count_voxels(plans[first])),
        seconds_per_step=seconds,
        num_iterations=num_iterations,
        reason=reason + _describe_next(plans[first:], rungs[first:], lambda index: measure(first + index)),
    )


def list_rungs(largest: Effort, configuration: Configuration) -> list[Rung]:
    """Efforts from the cheapest to the dearest: larger patches, more channels below full resolution, there too, larger batches."""
    batch_size = BATCH_SIZE.get(configuration, 2)
    effort = Effort(voxels=0, features=min(NARROW_FEATURES, largest.features), batch_size=batch_size)
    rungs = [
        Rung(effort=replace(effort, voxels=2 * edge**3), min_iterations=MIN_ITERATIONS)
        for edge in PATCH_EDGES
        if 2 * edge**3 <= largest.voxels
    ] or [Rung(effort=replace(effort, voxels=largest.voxels), min_iterations=MIN_ITERATIONS)]
    widest = rungs[-1].effort
    if widest.features < largest.features:
        widest = replace(widest, features=largest.features)
        thinner = replace(widest, full_resolution_features=NARROW_FEATURES)
        rungs.append(Rung(effort=thinner, min_iterations=MIN_ITERATIONS))
        rungs.append(Rung(effort=widest, min_iterations=MIN_ITERATIONS_FOR_FULL_RESOLUTION))
    for factor, min_iterations in MIN_ITERATIONS_FOR_BATCHES.items():
        larger = replace(widest, voxels=widest.voxels * factor, batch_size=batch_size * factor)
        rungs.append(Rung(effort=larger, min_iterations=min_iterations))
    return rungs


def _plan_rungs(
    fingerprint: Fingerprint, task: Task, rungs: Sequence[Rung], configuration: Configuration
) -> list[Plan]:
    """Plans of the rungs, up to where a patch shows so much of a case that no low resolution is needed any more."""
    plans: list[Plan] = []
    for rung in rungs:
        try:
            plans.append(build_plan(fingerprint, task, rung.effort, configuration))
        except InputError:
            if not plans:
                raise
            break
    return plans


def _count_voxels(plan: Plan) -> int:
    return math.prod(plan.patch_size) * plan.batch_size


def describe_batch(plan: Plan) -> str:
    """What one step learns from, such as ``"2 patches of 64x64x64 voxels and 16 channels"``."""
    patch = "x".join(str(size) for size in plan.patch_size)
    network = plan.network
    of_network = "" if network.architecture == "unet" else f" of {TITLES[network.architecture]}"
    channels = f"{network.features[0]} channels{of_network}"
    if len(network.features) > 1 and network.features[1] > 2 * network.features[0]:
        channels += f", {network.features[1]} below full resolution"
    return f"{plan.batch_size} patches of {patch} voxels and {channels}"


def format_time(seconds: float) -> str:
    """For people: seconds up to two minutes, minutes up to three hours, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.0f} h"


def _describe_next(plans: list[Plan], rungs: list[Rung], measure: Callable[[int], tuple[float, Plan]]) -> str:
    """What the next dearer plan would need; it has been timed already when the halving looked at it."""
    following = next(
        (index for index, plan in enumerate(plans) if describe_batch(plan) != describe_batch(plans[0])), None
    )
    if following is None:
        return "; more time buys more steps of the same"
    seconds, plan = measure(following)
    if math.isinf(seconds):
        return f"; more time buys more steps of the same, as the memory here does not hold {describe_batch(plan)}"
    needed = format_time(seconds * rungs[following].min_iterations)
    return f"; from {needed} on, {describe_batch(plan)} would be taken"
