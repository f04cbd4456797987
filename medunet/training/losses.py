"""Dice and cross-entropy, for classes that exclude each other and for regions that overlap.

Logits are cast to float32 before anything is summed: in float16 the sums overflow and Dice becomes 1 silently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.tasks import IGNORE_CODE

_SMOOTH = 1e-5


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and its readable part.

    Attributes:
        total: Differentiable scalar.
        soft_dice: Mean soft Dice of the foreground, detached, 0 to 1.
    """

    total: Tensor
    soft_dice: Tensor


def compute_dice_ce_loss(logits: Tensor, codes: Tensor, membership: Tensor, *, has_regions: bool) -> Loss:
    """``(1 - soft Dice) + cross-entropy`` of one scale (Milletari 2016, doi:10.1109/3DV.2016.79; Isensee 2021).

    Args:
        logits: ``(B, outputs, I, J, K)``, any float type.
        codes: ``(B, I, J, K)`` uint8; 255 is ignored: such voxels count in no sum.
        membership: ``(outputs, codes)`` from `medunet.tasks.compute_membership`.
        has_regions: Whether outputs overlap: sigmoid and binary cross-entropy instead of softmax.

    Returns:
        The loss. Dice is taken over the whole batch; an output that is absent from it and not predicted scores 1.
    """
    logits = logits.float()
    is_valid = codes != IGNORE_CODE  # (B, I, J, K)
    indices = codes.long().masked_fill(~is_valid, 0)
    targets = membership.to(logits)[:, indices].movedim(0, 1)  # (B, outputs, I, J, K)
    weights = is_valid.unsqueeze(1).to(logits)
    num_valid = weights.sum().clamp(min=1)
    if has_regions:
        probabilities = logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1, keepdim=True)
        first_foreground = 0
    else:
        log_probabilities = logits.log_softmax(1)
        probabilities = log_probabilities.exp()
        entropy = -(targets * log_probabilities).sum(1, keepdim=True)
        first_foreground = 1
    cross_entropy = (entropy * weights).sum() / num_valid
    dice = _compute_soft_dice(probabilities[:, first_foreground:], targets[:, first_foreground:], weights)
    return Loss(total=1 - dice + cross_entropy, soft_dice=dice.detach())


def compute_scaled_loss(scales: list[Tensor], codes: Tensor, membership: Tensor, *, has_regions: bool) -> Loss:
    """The loss at every supervised scale, weighted 1, 1/2, 1/4, ... (deep supervision, as in nnU-Net).

    Args:
        scales: Logits, finest first.
        codes: ``(B, I, J, K)`` at the finest scale.
        membership: As in `compute_dice_ce_loss`.
        has_regions: As in `compute_dice_ce_loss`.
    """
    weights = [0.5**scale for scale in range(len(scales))]
    losses = [
        compute_dice_ce_loss(logits, _shrink(codes, logits.shape[2:]), membership, has_regions=has_regions)
        for logits in scales
    ]
    total = torch.stack([loss.total * weight for loss, weight in zip(losses, weights, strict=True)]).sum()
    return Loss(total=total / sum(weights), soft_dice=losses[0].soft_dice)


def _compute_soft_dice(probabilities: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    axes = (0, 2, 3, 4)
    overlap = (probabilities * targets * weights).sum(axes)
    size = ((probabilities + targets) * weights).sum(axes)
    return ((2 * overlap + _SMOOTH) / (size + _SMOOTH)).mean()


def _shrink(codes: Tensor, shape: torch.Size) -> Tensor:
    """Nearest neighbour, which keeps codes codes."""
    if codes.shape[1:] == shape:
        return codes
    return F.interpolate(codes.unsqueeze(1).float(), size=list(shape), mode="nearest-exact").squeeze(1).to(codes.dtype)
