"""Dice and cross-entropy without a task: a membership table is enough."""

from __future__ import annotations

from torch import Tensor

from medunet.training.losses.entropy import CrossEntropy
from medunet.training.losses.overlap import BatchDice
from medunet.training.losses.segmentation import Loss, SegmentationLoss


def compute_dice_ce_loss(logits: Tensor, codes: Tensor, membership: Tensor, *, has_regions: bool) -> Loss:
    """``(1 - soft Dice) + cross-entropy`` of one scale, see `compute_scaled_loss`."""
    return compute_scaled_loss([logits], codes, membership, has_regions=has_regions)


def compute_scaled_loss(scales: list[Tensor], codes: Tensor, membership: Tensor, *, has_regions: bool) -> Loss:
    """The loss ``"dice-ce"`` of `build_loss`.

    Args:
        scales: Logits, finest first.
        codes: ``(B, I, J, K)`` at the finest scale.
        membership: ``(outputs, codes)`` from `medunet.tasks.compute_membership`.
        has_regions: Whether outputs overlap.
    """
    loss = SegmentationLoss(terms=(BatchDice(), CrossEntropy()), membership=membership, has_regions=has_regions)
    return loss(scales, codes)
