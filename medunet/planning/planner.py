"""From a fingerprint to a `Plan`: first what nnU-Net would take, then what the budget can pay for.

Each rule is a small pure function that also says why; the reasons are written into the plan.
"""

from __future__ import annotations

import math

import numpy as np

from medunet.planning.fingerprint import Fingerprint
from medunet.planning.plan import Configuration, NetworkPlan, Normalization, OptimizerPlan, Plan
from medunet.planning.targets import Effort
from medunet.planning.topology import Topology, compute_topology
from medunet.tasks import Task
from medunet.volume import Array, Shape3, Spacing

MAX_FEATURES = {"3d": 320, "2d": 512}
MIN_PASSES = 20
"""Times that a budget should be able to show every voxel; below that, coarser voxels are worth more."""
MAX_COARSENING = 2.0
"""Largest factor by which a budget may coarsen an axis."""
MIN_LABEL_DIAMETER = 6
"""Voxels across the smallest label (a ball of its volume) that coarsening must leave."""
MIN_PATCH_EDGE = 8
"""A patch is not shrunk below this along any axis."""
MIN_2D_BATCH = 12
"""Slices that an effort must pay for."""

ADAMW = OptimizerPlan(name="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine")


def build_plan(fingerprint: Fingerprint, task: Task, effort: Effort, configuration: Configuration = "3d") -> Plan:
    """Choose spacing, patch, batch and network; the same input gives the same plan.

    Args:
        fingerprint: Of the training cases.
        task: Channels, labels and intensity rule.
        effort: What one iteration may cost.
        configuration: ``"3d"``, or ``"2d"`` for patches of one slice across the coarsest axis.
    """
    reasons: dict[str, str] = {}
    spacing, reasons["spacing"] = _choose_spacing(fingerprint, effort)
    median_shape = _compute_median_shape(fingerprint, spacing)
    slice_axis = _choose_slice_axis(spacing) if configuration == "2d" else None
    patch_size, topology, reasons["patch_size"] = _choose_patch(median_shape, spacing, effort, slice_axis)
    batch_size, reasons["batch_size"] = _choose_batch_size(fingerprint, patch_size, median_shape, effort)
    network, reasons["network"] = _choose_network(task, topology, effort, configuration)
    normalization, reasons["normalization"] = _choose_normalization(fingerprint, task)
    return Plan(
        task=task.name,
        modality=task.modality,
        configuration=configuration,
        spacing=spacing,
        median_shape=median_shape,
        patch_size=patch_size,
        batch_size=batch_size,
        normalization=normalization,
        network=network,
        optimizer=ADAMW,
        reasons=reasons,
    )


def _choose_spacing(fingerprint: Fingerprint, effort: Effort) -> tuple[Spacing, str]:
    median = np.median(np.array(fingerprint.spacings), axis=0)
    reason = f"median of {fingerprint.num_cases} cases"
    if effort.total_voxels is None:
        return _as_spacing(median), reason
    spacing = median.copy()
    limit = _limit_coarsening(median, fingerprint)

    def count_passes() -> float:
        shape = _compute_median_shape(fingerprint, _as_spacing(spacing))
        return float(effort.total_voxels or 0) / (math.prod(shape) * fingerprint.num_cases)

    passes = count_passes()
    while count_passes() < MIN_PASSES and (spacing < limit - 1e-6).any():
        # The finest axes first: through-plane spacing is usually the coarser one already.
        growable = spacing < limit - 1e-6
        finest = spacing[growable].min()
        grows = growable & (spacing < finest * 1.03)
        spacing[grows] = np.minimum(spacing[grows] * 1.03, limit[grows])
    if (spacing > median).any():
        reason += (
            f" ({_format(median)} mm), coarsened because the budget shows every voxel {passes:.1f} times and "
            f"{MIN_PASSES} are wanted; now {count_passes():.1f} times"
        )
    return _as_spacing(spacing), reason


def _choose_slice_axis(spacing: Spacing) -> int:
    """The coarsest axis; among equals the last, which gives axial slices of isotropic data."""
    return max(range(3), key=lambda axis: (round(spacing[axis] / min(spacing), 2), axis))


def _limit_coarsening(median: Array, fingerprint: Fingerprint) -> Array:
    """The coarsest spacing that a budget may lead to, mm per axis; never finer than the median."""
    smallest_ml = min(fingerprint.label_volumes_ml.values())
    diameter_mm = (6000 * smallest_ml / math.pi) ** (1 / 3)
    limit: Array = np.clip(diameter_mm / MIN_LABEL_DIAMETER, median, MAX_COARSENING * median)
    return limit


def _compute_median_shape(fingerprint: Fingerprint, spacing: Spacing) -> Shape3:
    extents_mm = np.array(fingerprint.spacings) * np.array(fingerprint.shapes)
    i, j, k = np.maximum(1, np.round(np.median(extents_mm, axis=0) / np.array(spacing))).astype(int).tolist()
    return i, j, k


def _choose_patch(
    median_shape: Shape3, spacing: Spacing, effort: Effort, slice_axis: int | None
) -> tuple[Shape3, Topology, str]:
    """nnU-Net's rule with a count of voxels in place of its memory estimate."""
    shape = [1 if axis == slice_axis else n for axis, n in enumerate(median_shape)]
    flat = [axis for axis in range(3) if axis != slice_axis]
    edge = 256.0 if slice_axis is None else 2048.0
    scale = edge / math.prod(1 / spacing[axis] for axis in flat) ** (1 / len(flat))
    patch = [min(shape[axis], max(1, round(scale / spacing[axis]))) for axis in range(3)]
    patch = [1 if axis == slice_axis else max(MIN_PATCH_EDGE, n) for axis, n in enumerate(patch)]
    topology = compute_topology(_as_shape(patch), spacing)
    patch = _pad(patch, topology)
    voxels = effort.voxels / 2 if slice_axis is None else effort.voxels / MIN_2D_BATCH
    while math.prod(patch) > voxels and (smaller := _shrink(patch, shape, topology, spacing)):
        patch, topology = smaller
    covered = math.prod(min(n, have) for n, have in zip(patch, shape, strict=True)) / math.prod(shape)
    reason = (
        f"at most {voxels:,.0f} voxels, close to a cube in mm, a multiple of {_format(topology.divisors)}; "
        f"covers {covered:.0%} of the median {'slice' if slice_axis is not None else 'case'} {_format(median_shape)}"
    )
    return _as_shape(patch), topology, reason


def _shrink(
    patch: list[int], shape: list[int], topology: Topology, spacing: Spacing
) -> tuple[list[int], Topology] | None:
    """The patch with one axis smaller by a step of its divisor; None where no axis can give way.

    The axis that covers most of the case comes first. Where the padding that the smaller patch needs takes back what was
    gained, more steps are taken, then the next axis.
    """
    by_coverage = sorted(range(3), key=lambda axis: -patch[axis] / shape[axis])
    for axis in by_coverage:
        for length in range(patch[axis] - topology.divisors[axis], MIN_PATCH_EDGE - 1, -topology.divisors[axis]):
            shrunk = [length if other == axis else n for other, n in enumerate(patch)]
            # From the smaller patch, since fewer poolings may need less padding.
            smaller = compute_topology(_as_shape(shrunk), spacing)
            shrunk = _pad(shrunk, smaller)
            if math.prod(shrunk) < math.prod(patch):
                return shrunk, smaller
    return None


def _choose_batch_size(
    fingerprint: Fingerprint, patch_size: Shape3, median_shape: Shape3, effort: Effort
) -> tuple[int, str]:
    patch_voxels = math.prod(patch_size)
    affordable = effort.voxels // patch_voxels
    five_percent = int(0.05 * fingerprint.num_cases * math.prod(median_shape) / patch_voxels)
    batch_size = max(2, min(affordable, five_percent))
    reason = (
        f"{affordable} patches fit into the {effort.voxels:,} voxels of an iteration, 5 % of the dataset are "
        f"{five_percent}; the smaller, and at least 2"
    )
    return batch_size, reason


def _choose_network(
    task: Task, topology: Topology, effort: Effort, configuration: Configuration
) -> tuple[NetworkPlan, str]:
    num_stages = len(topology.strides)
    features = tuple(min(effort.features * 2**stage, MAX_FEATURES[configuration]) for stage in range(num_stages))
    network = NetworkPlan(
        spatial_dims=2 if configuration == "2d" else 3,
        in_channels=len(task.channels),
        out_channels=task.num_outputs,
        features=features,
        strides=topology.strides,
        kernels=topology.kernels,
        encoder_blocks=(2,) * num_stages,
        decoder_convolutions=(2,) * (num_stages - 1),
        # nnU-Net takes the loss at every decoder stage but the coarsest.
        num_scales=max(1, num_stages - 2),
    )
    return network, f"{num_stages} stages, as deep as the patch allows; {effort.features} channels in the first"


def _choose_normalization(fingerprint: Fingerprint, task: Task) -> tuple[tuple[Normalization, ...], str]:
    if task.intensity == "zscore":
        return tuple(Normalization(rule="zscore") for _ in task.channels), "mean and deviation of each image"
    if task.intensity == "none":
        return tuple(Normalization(rule="none") for _ in task.channels), "the task asks for none"
    if task.window_hu is not None:
        low, high = task.window_hu
        middle, half = (low + high) / 2, (high - low) / 2
        rule = Normalization(rule="ct-window", lower=low, upper=high, mean=middle, std=half)
        return tuple(rule for _ in task.channels), f"the task's window {low:g} to {high:g} HU becomes -1 to 1"
    rules = tuple(
        Normalization(
            rule="ct-percentile",
            lower=channel.percentile_00_5,
            upper=channel.percentile_99_5,
            mean=channel.mean,
            std=max(channel.std, 1e-6),
        )
        for channel in fingerprint.channels
    )
    return rules, "clipped to the 0.5th and 99.5th percentile of the foreground, then its mean and deviation"


def _pad(size: list[int], topology: Topology) -> list[int]:
    return [-(-n // divisor) * divisor for n, divisor in zip(size, topology.divisors, strict=True)]


def _as_shape(values: list[int]) -> Shape3:
    i, j, k = (int(n) for n in values)
    return i, j, k


def _as_spacing(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Spacing:
    i, j, k = (round(float(mm), 4) for mm in values)
    return i, j, k


def _format(values: object) -> str:
    return "x".join(f"{value:.4g}" for value in values)  # type: ignore[attr-defined]
