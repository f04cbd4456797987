"""The voxels that a network could see: full resolution, slices of it, or a coarser one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from medunet.planning.coarsening import coarsen_spacing
from medunet.planning.cost import CostModel, build_cost_model
from medunet.planning.fingerprint import Fingerprint
from medunet.planning.low_resolution import LowResolution, choose_low_resolution
from medunet.planning.patch import Patch, choose_patch
from medunet.planning.spacing import choose_spacing, compute_median_size, order_axes, to_ras
from medunet.planning.targets import Effort, MemoryTarget
from medunet.tasks import Task, is_picture
from medunet.volume import Shape3, Spacing


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A voxel size and the median case at it.

    Attributes:
        spacing: mm along R, A and S.
        median_shape: Voxels of the median case, rounded, along R, A and S.
        median_voxels: Their number before rounding.
        axes: Which of R, A and S the axes below are, in nnU-Net's order; two of them for slices.
        ordered_spacing: mm.
        ordered_size: Voxels of the median case; halves occur.
        costs: How patches are weighed.
    """

    spacing: Spacing
    median_shape: Shape3
    median_voxels: float
    axes: tuple[int, ...]
    ordered_spacing: tuple[float, ...]
    ordered_size: tuple[float, ...]
    costs: CostModel

    def choose_patch(self) -> tuple[Patch, str]:
        """The patch that the target pays for, and why."""
        patch = choose_patch(self.ordered_spacing, self.ordered_size, self.costs)
        limit = self.costs.compute_limit(len(self.axes))
        covered = math.prod(min(1.0, n / have) for n, have in zip(patch.size, self.ordered_size, strict=True))
        shown = "slice" if len(self.axes) == 2 else "case"
        return patch, (
            f"at most {limit:,.0f} {self.costs.unit} ({self.costs.name}), close to a cube in mm, a multiple of "
            f"{_format(to_ras(patch.topology.divisors, self.axes))}; covers {covered:.0%} of the median {shown} "
            f"{_format(self.median_shape)}"
        )

    def find_low_resolution(self, max_voxels: float = math.inf) -> tuple[LowResolution | None, str]:
        """A coarser grid for this full resolution, of at most so many voxels of the median case, or None; and why."""
        patch, _ = self.choose_patch()
        return choose_low_resolution(self.ordered_spacing, self.ordered_size, patch, self.costs, max_voxels=max_voxels)

    def take_slices(self) -> Grid:
        """Slices across the coarsest axis."""
        return replace(
            self,
            axes=self.axes[1:],
            ordered_spacing=self.ordered_spacing[1:],
            ordered_size=self.ordered_size[1:],
        )

    def take_low_resolution(self, low: LowResolution) -> Grid:
        """What `find_low_resolution` found."""
        i, j, k = (low.spacing[self.axes.index(axis)] for axis in range(3))
        return replace(
            self,
            spacing=(i, j, k),
            median_shape=to_ras(low.median_size, self.axes),
            median_voxels=low.median_voxels,
            ordered_spacing=low.spacing,
            ordered_size=low.median_size,
        )


def build_full_resolution(fingerprint: Fingerprint, task: Task, target: MemoryTarget | Effort) -> tuple[Grid, str]:
    """The grid of the dataset's own spacing, or of the coarser one that a budget can pay for, and why."""
    spacing, reason = choose_spacing(fingerprint)
    shapes = fingerprint.shapes
    if isinstance(target, Effort):
        # A budget counts what is really seen, and cases are cropped to the body.
        shapes = fingerprint.body_shapes
        if target.total_voxels is not None:
            spacing, more = coarsen_spacing(spacing, fingerprint, target.total_voxels)
            reason += more
    median = [max(1.0, n) for n in compute_median_size(fingerprint.spacings, shapes, spacing).tolist()]
    i, j, k = (round(n) for n in median)
    axes = order_axes(spacing)
    if is_picture(task.modality):  # which is one slice, however large its pixels are
        axes = order_axes([math.inf if n == 1 else mm for n, mm in zip(median, spacing, strict=True)])
    return Grid(
        spacing=spacing,
        median_shape=(i, j, k),
        median_voxels=math.prod(median),
        axes=axes,
        ordered_spacing=tuple(spacing[axis] for axis in axes),
        ordered_size=tuple(median[axis] for axis in axes),
        costs=build_cost_model(target, task),
    ), reason


def _format(shape: Shape3) -> str:
    return "x".join(map(str, shape))
