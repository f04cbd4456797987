"""How much memory a scan will take, known before it is computed: a sum of named terms, from sizes alone.

What a program holds at one time are the things that stay (`MemoryNeed.constant`) and those of the stage at work
(`MemoryNeed.stages`); the largest stage decides. Sizes of tensors are exact. What PyTorch and OpenVINO take beside them while a
network computes is measured (`_WORK`), and the body is taken to fill the scan, so the estimate is rather too high than too low.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from medunet.device import Precision
from medunet.errors import InputError
from medunet.inference.at_once import SMALLEST_BLOCK, Portions
from medunet.inference.boundary import CHUNK
from medunet.inference.surroundings import find_seen_size
from medunet.inference.tiling import STEP_FRACTION, plan_tiles
from medunet.networks import build_network
from medunet.networks.cost import count_parameters, count_pass_bytes
from medunet.planning import NetworkPlan, Plan
from medunet.preprocessing.pipeline import compute_target_grid
from medunet.volume import Shape3, Spacing, Volume, build_grid

_MIB = 2**20
_PROGRAM = 350 * _MIB
"""Python, torch and what medunet imports, measured."""
_OPENVINO = 150 * _MIB
"""The package, and a network while it is made ready, measured."""
_WORK: Mapping[tuple[str, str], float] = {
    ("torch", "32-true"): 1.3,
    ("torch", "bf16-mixed"): 0.65,
    ("torch", "16-mixed"): 0.65,
    ("openvino", "32-true"): 0.6,
    ("openvino", "bf16-mixed"): 0.45,
}
"""Of `count_pass_bytes`, measured with U-Nets on the CPU. OpenVINO shares memory between layers."""
_BORDER_SHARE = 0.2
"""Of the scan's voxels that lie between two labels."""
_BORDER_BYTES = 100
"""For each of them: its three indices, and which voxels lie around it along each axis."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done to a scan, as far as it takes memory.

    Attributes:
        plan: Of the networks.
        num_networks: That share it.
        num_flips: Passes per tile and network.
        step_fraction: Between tiles.
        backend: ``"torch"``, ``"openvino"`` or ``"onnxruntime"``.
        precision: Of the networks' arithmetic.
        on_device: Whether a GPU, with memory of its own, computes.
        keeps_logits: Whether all logits are kept, as for networks of several plans.
        label_bytes: Of a voxel of the mask.
        weight_bytes: Of one network; None counts them.
        finds_box: Whether only a box is looked for (`Locator`): all logits are kept, and no mask is made.
    """

    plan: Plan
    num_networks: int = 1
    num_flips: int = 1
    step_fraction: float = STEP_FRACTION
    backend: str = "torch"
    precision: Precision = "32-true"
    on_device: bool = False
    keeps_logits: bool = False
    label_bytes: int = 1
    weight_bytes: int | None = None
    finds_box: bool = False


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes by what they are for.

    Attributes:
        constant: What stays as long as the scan is worked on.
        stages: Stage -> what it holds beside that; stages come one after the other.
        device: What a GPU holds; nothing where the CPU computes.
    """

    constant: Mapping[str, int]
    stages: Mapping[str, Mapping[str, int]]
    device: Mapping[str, int]

    @property
    def largest_stage(self) -> str:
        """The stage that takes most."""
        return max(self.stages, key=lambda stage: sum(self.stages[stage].values()))

    @property
    def host_bytes(self) -> int:
        """Of the whole process."""
        return sum(self.constant.values()) + sum(self.stages[self.largest_stage].values())

    @property
    def device_bytes(self) -> int:
        """Of the GPU."""
        return sum(self.device.values())

    @property
    def limited_bytes(self) -> int:
        """What a limit is held against: the GPU's memory where one computes, else that of the process."""
        return self.device_bytes or self.host_bytes

    def describe(self) -> str:
        """All terms of the largest moment, in one line for people."""
        terms = {**self.constant, **self.stages[self.largest_stage]}
        text = f"{format_gb(self.host_bytes)}, most of it while the scan is in the stage '{self.largest_stage}': {_list_terms(terms)}"
        return f"{text}; GPU {format_gb(self.device_bytes)}: {_list_terms(self.device)}" if self.device else text

    def to_json(self) -> dict[str, float]:
        """MiB per term, and their sums ``host`` and ``device``."""
        terms = {**self.constant, **self.stages[self.largest_stage]}
        sums = {"host": self.host_bytes} | ({"device": self.device_bytes} if self.device else {})
        named = {f"host: {name}": size for name, size in terms.items()}
        named |= {f"device: {name}": size for name, size in self.device.items()}
        return {name: round(size / _MIB, 1) for name, size in (sums | named).items()}


def estimate_memory(
    shape: Shape3, spacing: Spacing, work: Work, portions: Portions, *, num_channels: int = 1, voxel_bytes: int = 4
) -> MemoryNeed:
    """What a scan takes from its file to its mask.

    Args:
        shape: Of the scan; its axes run along those of the plan.
        spacing: mm.
        work: What is done to it.
        portions: How much at a time.
        num_channels: Of the scan.
        voxel_bytes: Of a voxel in memory: 2 for int16, 4 for float32.
    """
    plan, voxels = work.plan, math.prod(shape)
    seen, _ = compute_target_grid(build_grid(shape, np.diag([*spacing, 1.0])), plan.spacing)
    scan = voxels * num_channels * voxel_bytes
    network = _estimate_network(seen, shape, work, portions, num_channels)
    weights = (_count_weight_bytes(plan) if work.weight_bytes is None else work.weight_bytes) * work.num_networks
    constant = {"program": _PROGRAM, "scan": scan, "mask": voxels * work.label_bytes, "weights": weights}
    if work.backend != "torch":  # PyTorch's weights stay, the converted network has its own
        constant |= {"program": _PROGRAM + _OPENVINO, "weights": 2 * weights}
    stages = {
        "read": {"file": scan},
        "prepare": {"turned scan": scan, **_estimate_preparing(shape, spacing, seen, plan, num_channels)},
        "network": network,
        "finish": {"parts of structures": 6 * voxels},
    }
    if not work.on_device:
        return MemoryNeed(constant=constant, stages=stages, device={})
    # The scan stays on the host, and its tiles are put together there.
    channels = num_channels + plan.num_previous_labels
    host = {
        "preprocessed scan": network.pop("preprocessed scan"),
        "tiles": 4 * channels * portions.batch_size * math.prod(find_seen_size(plan)),
        "labels of a slab": voxels,
    }
    return MemoryNeed(constant=constant, stages=stages | {"network": host}, device={"weights": weights, **network})


def choose_portions(
    shape: Shape3,
    spacing: Spacing,
    work: Work,
    largest: Portions,
    *,
    memory_gb: float | None,
    room: int | None = None,
    num_channels: int = 1,
    voxel_bytes: int = 4,
) -> tuple[Portions, MemoryNeed]:
    """The largest portions that fit, and what they take.

    Args:
        shape: As `estimate_memory`.
        spacing: As `estimate_memory`.
        work: As `estimate_memory`.
        largest: From which to step down.
        memory_gb: Limit in 10^9 bytes; None sets none.
        room: Without a limit, the bytes that are there, such as `measure_room` counts them. Where even the smallest portions need
            more, they are taken nevertheless: it is only an estimate. None takes the largest whatever they need.
        num_channels: As `estimate_memory`.
        voxel_bytes: As `estimate_memory`.

    Raises:
        InputError: If even the smallest do not fit; says what takes most, and what would fit.
    """
    limit = (math.inf if room is None else room) if memory_gb is None else memory_gb * 1e9
    for portions in _list_smaller(largest):
        need = estimate_memory(shape, spacing, work, portions, num_channels=num_channels, voxel_bytes=voxel_bytes)
        if need.limited_bytes <= limit:
            return portions, need
    if memory_gb is None:
        return portions, need
    where = "of the GPU" if work.on_device else "of the process"
    easier = [] if work.num_flips == 1 else ["--flips none"]
    easier += [] if work.num_networks == 1 else ["--speed fast, which takes one network"]
    msg = (
        f"A scan of {'x'.join(map(str, shape))} voxels needs about {format_gb(need.limited_bytes)} of memory {where}, tile by tile, and "
        f"{memory_gb:g} GB are allowed ({need.describe()}). Allow {math.ceil(need.limited_bytes / 1e8) / 10:g} GB with --memory-gb"
        f"{''.join(f', or try {option}' for option in easier)}, or cut or coarsen the scan."
    )
    raise InputError(msg)


def measure_axes(scan: Volume) -> tuple[Shape3, Spacing]:
    """Shape and spacing of a scan along the axes of a plan (R, A, S)."""
    from nibabel.orientations import io_orientation

    order = np.argsort(io_orientation(scan.affine)[:, 0])
    i, j, k = (scan.spatial_shape[axis] for axis in order)
    x, y, z = (scan.spacing[axis] for axis in order)
    return (i, j, k), (x, y, z)


def format_gb(size: int) -> str:
    """Bytes for people.

    Example:
        >>> format_gb(2_340_000_000), format_gb(34_000_000)
        ('2.3 GB', '0.03 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e9:.2f} GB"


def _list_smaller(largest: Portions) -> Iterator[Portions]:
    """Blocks first, which cost hardly any time, then tiles."""
    batch_size = largest.batch_size
    while batch_size >= 1:
        block = largest.block_logits
        while block >= min(SMALLEST_BLOCK, largest.block_logits):
            yield replace(largest, batch_size=batch_size, block_logits=block)
            block //= 4
        batch_size //= 2


def _estimate_preparing(shape: Shape3, spacing: Spacing, seen: Shape3, plan: Plan, num_channels: int) -> dict[str, int]:
    """A float32 copy of what is not thinned out, and of each of the three products that resample it the one before and itself."""
    voxels = math.prod(shape)
    steps = [max(1, int(new / (old * 3))) for old, new in zip(spacing, plan.spacing, strict=True)]
    line = [-(-length // step) for length, step in zip(shape, steps, strict=True)]
    sizes = [math.prod(line)]
    for axis in sorted(range(3), key=lambda axis: seen[axis] / line[axis]):
        line[axis] = seen[axis]
        sizes.append(math.prod(line))
    both = max(before + after for before, after in itertools.pairwise(sizes))
    body = voxels * (1 + num_channels)  # of the search for the body, which is over by then
    holes = 6 * voxels if any(rule.nonzero_only for rule in plan.normalization) else 0
    return {"resampling": max(body, 4 * num_channels * both), "zeros around the body": holes}


def _estimate_network(seen: Shape3, shape: Shape3, work: Work, portions: Portions, num_channels: int) -> dict[str, int]:
    """What lies beside the scan while tiles advance; see `stream_sliding_window` and `LabelPainter`."""
    plan, outputs = work.plan, work.plan.network.out_channels
    tiling = plan_tiles(seen, plan.patch_size, step_fraction=work.step_fraction)
    channels = num_channels + plan.num_previous_labels
    prepared = 4 * channels * math.prod(seen)
    plane = math.prod(tiling.padded_shape) // tiling.padded_shape[tiling.streaming_axis]
    depth = plan.patch_size[tiling.streaming_axis]
    patch, seen_patch = math.prod(plan.patch_size), math.prod(find_seen_size(plan))
    at_once = portions.batch_size  # passes through the network; all passes of a batch of tiles are kept
    passes = portions.batch_size * work.num_flips
    is_alone = work.backend != "torch"  # patches go through it one by one
    activations = count_activation_bytes(plan, 1 if is_alone else at_once)
    share = _WORK.get(("openvino" if is_alone else "torch", work.precision), 1.3)
    slab_voxels = math.prod(shape) * min(1.0, depth / tiling.padded_shape[tiling.streaming_axis])
    block_share = min(1.0, portions.block_logits / (outputs * math.prod(seen)))
    points = min(slab_voxels, math.prod(shape) * block_share)
    logits = 4 * outputs * min(portions.block_logits, outputs * plane * depth) // outputs
    points_at_once = max(CHUNK // outputs, math.prod(shape) // min(shape))
    terms = {
        "preprocessed scan": prepared,
        "sums of a row": 4 * outputs * (1 + depth) * plane,
        "tiles": 4
        * (
            seen_patch * channels * (portions.batch_size + passes)
            + patch * outputs * (passes + portions.batch_size * work.num_networks)
        ),
        "network at work": int(share * activations),
        "labels of a slab": int(slab_voxels + logits + 8 * logits / (4 * outputs) + 3 * points)
        + 4 * 2 * max(CHUNK, outputs * plane)  # planes between voxels
        + int(_BORDER_BYTES * _BORDER_SHARE * points_at_once),
    }
    if work.finds_box:
        terms["labels of a slab"] = 2 * math.prod(seen)
        terms["all logits"] = 4 * outputs * math.prod(seen)
    elif work.keeps_logits:
        terms["all logits"] = 4 * outputs * math.prod(seen) + 3 * 4 * math.prod(shape)
    return terms


def count_activation_bytes(plan: Plan, batch_size: int) -> int:
    """What lies in memory while a network computes patches, weights left out; see `count_pass_bytes`.

    For the planner's own U-Nets it is known without asking torch, which would take two seconds to get ready for that: most is held at
    the last convolution over joined maps of the finest stage.
    """
    network = plan.network
    if network.architecture not in ("unet", "residual-unet"):
        return _count_once(network.model_dump_json(), plan.patch_size, batch_size)
    voxels = float(math.prod(plan.patch_size))
    sizes = []
    for features, stride in zip(network.features, network.strides, strict=True):
        voxels /= math.prod(stride)
        sizes.append(features * voxels)
    skips = sum(sizes[:-1])
    finest = sizes[0]
    joined, answer = 2 * finest, finest
    copies = joined + answer
    patch = network.in_channels * math.prod(plan.patch_size)
    before = sizes[1] if len(sizes) > 1 else 0.0  # what was made finer
    return int(4 * batch_size * (patch + skips + before + joined + answer + copies))


@functools.lru_cache(maxsize=64)
def _count_once(network: str, patch_size: Shape3, batch_size: int) -> int:
    plan = NetworkPlan.model_validate_json(network)
    with torch.device("meta"):
        built = build_network(plan)
    return count_pass_bytes(built, plan.in_channels, patch_size, batch_size)


def _count_weight_bytes(plan: Plan) -> int:
    with torch.device("meta"):
        return 4 * count_parameters(build_network(plan.network))


def _list_terms(terms: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {format_gb(size)}" for name, size in terms.items())
