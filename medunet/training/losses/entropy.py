"""Terms that look at each voxel: cross-entropy, focal loss, cross-entropy of the hardest voxels.

For classes a voxel has one cross-entropy; for regions it has one per region, and the mean is over both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.training.losses.scale import Scale


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Mean cross-entropy, weighted where voxels have weights; 0 where no voxel counts."""

    def compute_sums(self, scale: Scale) -> Tensor:
        """Weighted sum and the sum of weights."""
        return torch.stack([(scale.entropy * scale.weights).sum(), scale.weights.sum()])

    def compute_loss(self, sums: Tensor) -> Tensor:
        """The mean."""
        return sums[0] / sums[1].clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Focal:
    """Mean of ``(1 - p)^gamma * -log(p)`` with the probability p of what is right (Lin 2017, arXiv:1708.02002).

    Attributes:
        gamma: How much less a voxel counts that is already right; 0 is cross-entropy.
    """

    gamma: float = 2.0

    def compute_sums(self, scale: Scale) -> Tensor:
        """Weighted sum and the sum of weights."""
        wrong = -torch.expm1(-scale.entropy)  # 1 - p, exact for p near 1
        return torch.stack([(wrong**self.gamma * scale.entropy * scale.weights).sum(), scale.weights.sum()])

    def compute_loss(self, sums: Tensor) -> Tensor:
        """The mean."""
        return sums[0] / sums[1].clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class TopCrossEntropy:
    """Mean cross-entropy of the hardest voxels of each patch (Wu 2016, arXiv:1604.04339; nnU-Net's ``TopKLoss``).

    Of each patch, and for regions of each region, the same share of the voxels that count is taken, rounded down, but at
    least one.

    Attributes:
        percent: The share, 1 to 100; 100 is cross-entropy.
    """

    percent: int = 10

    def compute_sums(self, scale: Scale) -> Tensor:
        """Sum over the hardest voxels and their number."""
        entropy, counts = scale.entropy.flatten(2), scale.weights.flatten(2) > 0  # (B, M, voxels)
        num_hardest = self._take_share(counts.sum(2, keepdim=True))  # differs where voxels are ignored
        most = max(entropy.shape[2] * self.percent // 100, 1)
        hardest = entropy.masked_fill(~counts, -1.0).topk(most, dim=2).values
        is_taken = torch.arange(most, device=entropy.device) < num_hardest
        return torch.stack([(hardest * is_taken).sum(), num_hardest.sum().to(entropy)])

    def compute_loss(self, sums: Tensor) -> Tensor:
        """The mean."""
        return sums[0] / sums[1].clamp(min=1)

    def _take_share(self, num_voxels: Tensor) -> Tensor:
        share = num_voxels * self.percent // 100
        return torch.maximum(share, (num_voxels > 0).to(share))
