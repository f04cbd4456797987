"""The patch that a network sees: as much of a case as the target can pay for, close to a cube in mm (nnU-Net's rules).

Here sizes and spacings have two or three axes in nnU-Net's order (`order_axes`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medunet.errors import InputError
from medunet.planning.cost import CostModel
from medunet.planning.topology import Topology, compute_topology

START_EDGE = {2: 2048, 3: 256}
"""Edge of a cube with as many voxels as the patch that is cut down, surely larger than what any target pays for."""
_HALVABLE_EDGE = 8


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A patch and the network's shape for it.

    Attributes:
        size: Voxels per axis, multiples of the topology's divisors.
        topology: Strides and kernels.
        cost: Of one patch, by the cost model.
    """

    size: tuple[int, ...]
    topology: Topology
    cost: float

    @property
    def has_two_stages(self) -> bool:
        """Whether a U-Net can be built for it."""
        return len(self.topology.strides) > 1


def choose_patch(spacing: Sequence[float], median_size: Sequence[float], costs: CostModel) -> Patch:
    """Start with a patch that is a cube in mm, clip it to the median case, and cut it down to what can be paid for.

    While it costs too much, the axis that covers most of the median case becomes one step shorter; a step is what the
    depth of the network demands, and both follow from each other.

    Args:
        spacing: mm, two or three axes.
        median_size: Voxels of the median case at that spacing.
        costs: How patches are weighed.

    Raises:
        InputError: If the target pays for no patch that a U-Net can be built for.
    """
    limit = costs.compute_limit(len(spacing))
    patch = _build_patch(_choose_start(spacing, median_size), spacing, costs)
    seen = {patch}
    while patch.cost > limit:
        smaller = _cut_one_step(patch, spacing, median_size, costs)
        if smaller is None:
            msg = (
                f"A patch of {'x'.join(map(str, patch.size))} voxels, the smallest for a U-Net here, costs "
                f"{patch.cost:,.0f} {costs.unit}; {costs.name} pays for {limit:,.0f}. Plan for more."
            )
            raise InputError(msg)
        # Padding can take back what a step gained, but no dataset was found for which the steps run in a circle.
        assert smaller not in seen
        patch = smaller
        seen.add(patch)
    return patch


def _choose_start(spacing: Sequence[float], median_size: Sequence[float]) -> list[float]:
    num_axes = len(spacing)
    per_mm = 1 / np.array(spacing)
    scaled = per_mm * (START_EDGE[num_axes] ** num_axes / np.prod(per_mm)) ** (1 / num_axes)
    start = [float(min(round(n), most)) for n, most in zip(scaled.tolist(), median_size, strict=True)]
    if max(start) < _HALVABLE_EDGE:
        # nnU-Net would build a network of one stage, which is no U-Net.
        start = [float(max(n, _HALVABLE_EDGE)) for n in start]
    return start


def _build_patch(size: Sequence[float], spacing: Sequence[float], costs: CostModel) -> Patch:
    """Pad to what the depth demands, and weigh."""
    topology = compute_topology(size, spacing)
    padded = tuple(math.ceil(n / divisor) * divisor for n, divisor in zip(size, topology.divisors, strict=True))
    return Patch(size=padded, topology=topology, cost=costs.compute_cost(padded, topology))


def _cut_one_step(
    patch: Patch, spacing: Sequence[float], median_size: Sequence[float], costs: CostModel
) -> Patch | None:
    """nnU-Net's step: shorten the axis that covers most of the case; None where no axis may become shorter.

    The step is the divisor of the shorter patch, not of this one: 256 becomes 224 (seven times 32), not 192.
    """
    axes = [n for n in range(len(spacing)) if patch.size[n] - patch.topology.divisors[n] >= costs.min_edge]
    if not axes:
        return None
    axis = max(axes, key=lambda n: (patch.size[n] / median_size[n], n))
    shorter = compute_topology(_shorten(patch.size, axis, patch.topology.divisors[axis]), spacing)
    smaller = _build_patch(_shorten(patch.size, axis, shorter.divisors[axis]), spacing, costs)
    return smaller if smaller.has_two_stages else None


def _shorten(size: Sequence[int], axis: int, by: int) -> list[float]:
    return [float(n - by if other == axis else n) for other, n in enumerate(size)]
