"""What a patch costs, counted in feature voxels (nnU-Net's stand-in for GPU memory) or in the patch's own voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from medunet.planning.stages import choose_blocks, choose_features
from medunet.planning.targets import PRESETS, Effort, MemoryTarget
from medunet.planning.topology import Topology
from medunet.tasks import Task

REFERENCE_BATCH = {2: 12, 3: 2}
"""Patches of the batch that a limit is stated for."""
MIN_BATCH = 2


class CostModel(Protocol):
    """How a patch is weighed against a target; ``num_axes`` is 2 for slices and 3 for volumes."""

    @property
    def name(self) -> str:
        """What the limit comes from."""

    @property
    def unit(self) -> str:
        """What is counted."""

    @property
    def min_edge(self) -> int:
        """An axis is not cut below this."""

    @property
    def dataset_share(self) -> float:
        """Largest share of all voxels of the dataset that one batch may show."""

    @property
    def fixed_batch_size(self) -> int | None:
        """Patches per batch, where that is not for the rules to choose."""

    def compute_cost(self, patch_size: Sequence[int], topology: Topology) -> float:
        """Cost of one patch."""

    def compute_limit(self, num_axes: int) -> float:
        """What one patch may cost at most."""

    def count_affordable(self, cost: float, num_axes: int) -> int:
        """Patches of this cost that fit into a batch."""


@dataclass(frozen=True, kw_only=True)
class FeatureVoxels:
    """Feature maps of all convolutions, of which the reference batch fills the target's memory (nnU-Net).

    Attributes:
        target: Preset and memory.
        num_classes: Channels of the network's output.
    """

    target: MemoryTarget
    num_classes: int

    @property
    def name(self) -> str:
        """Preset and memory."""
        return f"nnU-Net's preset {self.target.preset}, {self.target.memory_gb or self.target.rule.memory_gb:g} GB"

    @property
    def unit(self) -> str:
        """Voxels times channels."""
        return "feature voxels"

    @property
    def min_edge(self) -> int:
        """nnU-Net sets no limit."""
        return 1

    @property
    def dataset_share(self) -> float:
        """Of the preset."""
        return self.target.rule.dataset_share

    @property
    def fixed_batch_size(self) -> None:
        """The rules choose."""

    def compute_cost(self, patch_size: Sequence[int], topology: Topology) -> float:
        """Feature voxels of one patch."""
        features = choose_features(len(topology.strides), len(patch_size))
        return count_feature_voxels(patch_size, topology, features, self.target, self.num_classes)

    def compute_limit(self, num_axes: int) -> float:
        """Feature voxels of a patch of which the smallest batch fits."""
        if num_axes == 3:
            return self._compute_reference(3)
        return self._compute_reference(2) * REFERENCE_BATCH[2] / self.target.rule.smallest_batch_2d

    def count_affordable(self, cost: float, num_axes: int) -> int:
        """Rounded, as nnU-Net does."""
        return round(self._compute_reference(num_axes) / cost * REFERENCE_BATCH[num_axes])

    def _compute_reference(self, num_axes: int) -> float:
        rule = self.target.rule
        return (rule.feature_voxels_3d if num_axes == 3 else rule.feature_voxels_2d) * self.target.memory_scale


@dataclass(frozen=True, kw_only=True)
class PatchVoxels:
    """Voxels of the patches themselves, of which an effort pays for so many per batch."""

    effort: Effort

    @property
    def name(self) -> str:
        """All voxels of a batch."""
        return f"an effort of {self.effort.voxels:,} per batch"

    @property
    def unit(self) -> str:
        """Of the image."""
        return "voxels"

    @property
    def min_edge(self) -> int:
        """Small efforts would leave a slice or two of an axis that covers the whole case, which comes first."""
        return 8

    @property
    def dataset_share(self) -> float:
        """nnU-Net's."""
        return PRESETS["default"].dataset_share

    @property
    def fixed_batch_size(self) -> int | None:
        """What the effort says."""
        return self.effort.batch_size

    def compute_cost(self, patch_size: Sequence[int], topology: Topology) -> float:
        """Voxels of one patch."""
        return math.prod(patch_size)

    def compute_limit(self, num_axes: int) -> float:
        """An equal share of the effort for every patch of a batch."""
        return self.effort.voxels / (self.effort.batch_size or REFERENCE_BATCH[num_axes])

    def count_affordable(self, cost: float, num_axes: int) -> int:
        """Never more voxels than the effort has."""
        return int(self.effort.voxels // cost)


def build_cost_model(target: MemoryTarget | Effort, task: Task) -> CostModel:
    """How patches are weighed for this target."""
    if isinstance(target, Effort):
        return PatchVoxels(effort=target)
    # nnU-Net counts every name in its dataset's list of labels: background, labels or regions, and ignore.
    return FeatureVoxels(target=target, num_classes=1 + len(task.labels) + (task.ignore is not None))


def count_feature_voxels(
    patch_size: Sequence[int],
    topology: Topology,
    features: Sequence[int],
    target: MemoryTarget,
    num_classes: int,
) -> int:
    """Voxels times channels of the output of every convolution for one patch.

    It equals ``compute_conv_feature_map_size`` of nnU-Net's networks (package dynamic-network-architectures): the
    encoder's convolutions, those of the shortcuts of residual blocks where the grid or the width changes, the
    transposed convolutions, the decoder's convolutions, and the finest head.
    """
    sizes = _list_sizes(patch_size, topology)
    blocks = choose_blocks(target.rule.architecture, len(features))
    is_residual = target.rule.architecture == "residual-unet"
    total = num_classes * sizes[0] + (features[0] * sizes[0] if is_residual else 0)  # head and stem
    for stage, (width, size) in enumerate(zip(features, sizes, strict=True)):
        # Two convolutions per residual block; the first block of a lower stage has one more in its shortcut.
        num_convolutions = 2 * blocks.encoder[stage] + (stage > 0) if is_residual else blocks.encoder[stage]
        if stage < len(blocks.decoder):
            num_convolutions += blocks.decoder[stage] + 1
        total += num_convolutions * width * size
    return total


def _list_sizes(patch_size: Sequence[int], topology: Topology) -> list[int]:
    """Voxels of the grid of every stage."""
    size, sizes = list(patch_size), []
    for stride in topology.strides:
        size = [n // step for n, step in zip(size, stride, strict=True)]
        sizes.append(math.prod(size))
    return sizes
