"""Whether a second, coarser network is needed to see more of a case, and at which spacing (nnU-Net's rules)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medunet.planning.cost import CostModel
from medunet.planning.patch import Patch, choose_patch

MIN_COVERAGE = 0.25
"""Share of the median case that a patch of the low resolution covers."""
MIN_REDUCTION = 2.0
"""Times fewer voxels that a low resolution must have to be worth a network of its own."""
_STEP = 1.03


@dataclass(frozen=True, kw_only=True)
class LowResolution:
    """A coarser grid, axes in nnU-Net's order (`order_axes`).

    Attributes:
        spacing: mm per axis.
        median_size: Voxels of the median case at that spacing.
        median_voxels: Their number before rounding.
        patch: Patch and topology.
    """

    spacing: tuple[float, ...]
    median_size: tuple[int, ...]
    median_voxels: float
    patch: Patch


def choose_low_resolution(
    spacing: Sequence[float],
    median_size: Sequence[float],
    patch: Patch,
    costs: CostModel,
    *,
    max_voxels: float = math.inf,
) -> tuple[LowResolution | None, str]:
    """Coarsen the voxels by 3 % until a patch covers a quarter of the median case.

    Axes that are more than twice as fine as the coarsest grow first, alone. The low resolution is dropped where it has
    hardly fewer voxels than the full one.

    Args:
        spacing: Of the full resolution, three axes in nnU-Net's order.
        median_size: Of the full resolution.
        patch: Of the full resolution.
        costs: How patches are weighed.
        max_voxels: Of the median case; the voxels are coarsened until it has no more. nnU-Net knows no such limit.

    Returns:
        The low resolution, or None where none is needed or worth it, and why.
    """
    full_voxels = math.prod(median_size)
    coverage = math.prod(patch.size) / full_voxels
    if coverage >= MIN_COVERAGE:
        return None, f"a patch covers {min(1, coverage):.0%} of the median case, and {MIN_COVERAGE:.0%} are enough"
    mm, found = np.array(spacing, dtype=float), None
    while (
        found is None
        or math.prod(found.patch.size) / found.median_voxels < MIN_COVERAGE
        or found.median_voxels > max_voxels
    ):
        fine = mm.max() / mm > 2
        mm = np.where(fine, mm * _STEP, mm) if fine.any() else mm * _STEP
        found = _plan_at(mm.tolist(), spacing, median_size, costs)
    reduction = full_voxels / found.median_voxels
    covered = f"a patch covers {coverage:.1%} of the median case at full resolution; "
    if reduction < MIN_REDUCTION:
        return None, covered + (
            f"spacing at which it covers {MIN_COVERAGE:.0%} gives only {reduction:.2f} times fewer voxels, not "
            f"{MIN_REDUCTION:g} times"
        )
    until = f"until it covers {MIN_COVERAGE:.0%}"
    if max_voxels < math.inf:
        until += f" and the case has at most {max_voxels:,.0f} voxels"
    return found, covered + f"spacing grown {until}, {reduction:.1f} times fewer voxels"


def _plan_at(
    mm: list[float], spacing: Sequence[float], median_size: Sequence[float], costs: CostModel
) -> LowResolution:
    scaled = np.array(spacing) / np.array(mm) * np.array(median_size)
    rounded = tuple(max(1, round(n)) for n in scaled.tolist())
    return LowResolution(
        spacing=tuple(mm),
        median_size=rounded,
        median_voxels=float(np.prod(scaled)),
        patch=choose_patch(mm, rounded, costs),
    )
