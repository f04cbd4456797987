"""One scale of the network's output beside its reference, reduced to what the terms of a loss are computed from.

Shapes: B patches, O outputs (background and labels; for regions one per region), M entropy maps (one for classes, O for
regions and for classes against the rest), ``(I, J, K)`` voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.tasks import IGNORE_CODE

_NUM_CODES = 256  # codes are bytes
_VOXELS = (2, 3, 4)
_LOG_NOTHING = -1e4
"""Logarithm of a probability that counts nowhere: finite, so that gradients stay so."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Prediction and reference at one scale, float32; ignored voxels count nowhere.

    Attributes:
        overlap: ``(B, O)``: sum of probabilities within the reference.
        predicted: ``(B, O)``: sum of probabilities.
        reference: ``(B, O)``: number of voxels of the reference.
        annotated: ``(B, O)``: 0 where a case does not annotate an output, else 1.
        entropy: ``(B, M, I, J, K)``: cross-entropy per voxel, of all classes together, or of each region or class by itself.
        weights: ``(B, M or 1, I, J, K)``: what a voxel counts in a mean of ``entropy``; 0 where it is ignored, and in a
            region that the case does not annotate.
        first_foreground: First output that is no background: 1 for classes, 0 for regions.
    """

    overlap: Tensor
    predicted: Tensor
    reference: Tensor
    annotated: Tensor
    entropy: Tensor
    weights: Tensor
    first_foreground: int


def build_class_scale(
    logits: Tensor,
    codes: Tensor,
    annotated: Tensor | None,
    voxel_weights: Tensor | None,
    *,
    is_binary: bool = False,
) -> Scale:
    """Classes that exclude each other: softmax.

    Classes that a case does not annotate may hide in its background, so there they *are* background: their probability
    is added to it, and a voxel of background costs nothing where any of them is predicted (the marginal loss of Shi
    2021, doi:10.1016/j.media.2021.101979; Fang and Yan 2020, doi:10.1109/TMI.2020.3001036).

    Args:
        logits: ``(B, O, I, J, K)``, any float type; output 0 is background.
        codes: ``(B, I, J, K)`` uint8: the class; 255 is ignored.
        annotated: ``(B, O)`` bool, None for all; background always is.
        voxel_weights: ``(B, 1, I, J, K)``, None for 1 everywhere.
        is_binary: Whether each class is compared with all others together, which gives an entropy per class.
    """
    log_probabilities = logits.float().log_softmax(1)  # sums of float16 overflow, and Dice becomes 1 without a word
    if annotated is not None:
        annotated = annotated.index_fill(1, torch.zeros(1, dtype=torch.long, device=annotated.device), True)
        codes = _merge_codes(codes, annotated)
        log_probabilities = _merge_log_probabilities(log_probabilities, annotated)
    is_valid = (codes != IGNORE_CODE).unsqueeze(1)
    classes = torch.arange(logits.shape[1], device=codes.device, dtype=torch.uint8).reshape(1, -1, 1, 1, 1)
    targets = (codes.unsqueeze(1) == classes).float()  # 0 in every class where the voxel is ignored
    if is_binary:
        entropy = -torch.where(targets > 0, log_probabilities, _compute_log_rest(log_probabilities, annotated))
    else:
        entropy = -log_probabilities.gather(1, codes.unsqueeze(1).masked_fill(~is_valid, 0).long())
    return _reduce(
        log_probabilities.exp(),
        targets,
        entropy=entropy,
        is_valid=is_valid.float(),
        annotated=annotated,
        voxel_weights=voxel_weights,
        first_foreground=1,
    )


def build_region_scale(
    logits: Tensor, codes: Tensor, membership: Tensor, annotated: Tensor | None, voxel_weights: Tensor | None
) -> Scale:
    """Regions that may overlap: a sigmoid each. Regions that a case does not annotate count in no sum of it.

    Args:
        logits: ``(B, O, I, J, K)``, any float type.
        codes: ``(B, I, J, K)`` uint8; 255 is ignored.
        membership: ``(O, codes)`` from `medunet.tasks.compute_membership`.
        annotated: ``(B, O)`` bool, None for all.
        voxel_weights: ``(B, O, I, J, K)``, None for 1 everywhere.
    """
    logits = logits.float()
    table = F.pad(membership.float(), (0, _NUM_CODES - membership.shape[1]))  # no region holds the code 255
    targets = table[:, codes.long()].transpose(0, 1).contiguous()
    return _reduce(
        logits.sigmoid(),
        targets,
        entropy=F.binary_cross_entropy_with_logits(logits, targets, reduction="none"),
        is_valid=(codes != IGNORE_CODE).unsqueeze(1).float(),
        annotated=annotated,
        voxel_weights=voxel_weights,
        first_foreground=0,
    )


def _merge_codes(codes: Tensor, annotated: Tensor) -> Tensor:
    """Codes of classes that are not annotated become background; ignored voxels stay so."""
    indices = codes.long().clamp(max=annotated.shape[1] - 1)  # 255 has no column
    is_known = annotated.gather(1, indices.flatten(1)).reshape(codes.shape) | (codes == IGNORE_CODE)
    return codes.masked_fill(~is_known, 0)


def _merge_log_probabilities(log_probabilities: Tensor, annotated: Tensor) -> Tensor:
    """Background takes the probability of the classes that are not annotated; theirs stays, and counts nowhere."""
    others = annotated[:, 1:, None, None, None]
    hidden = log_probabilities[:, 1:].masked_fill(others, -torch.inf)
    background = torch.cat([log_probabilities[:, :1], hidden], 1).logsumexp(1, keepdim=True)
    return torch.cat([background, log_probabilities[:, 1:]], 1)


def _compute_log_rest(log_probabilities: Tensor, annotated: Tensor | None) -> Tensor:
    """``log(1 - p)`` of every class, with a gradient where p is 1 to the last digit, too.

    Only the most probable class can lose digits in ``1 - p``: for it the others are added up. Classes that are not
    annotated are part of the background and do not count among them.
    """
    known = log_probabilities
    if annotated is not None:
        known = known.masked_fill(~annotated[:, :, None, None, None], _LOG_NOTHING)
    most = known.argmax(1, keepdim=True)
    rest = known.scatter(1, most, _LOG_NOTHING).logsumexp(1, keepdim=True)
    is_most = torch.zeros_like(known, dtype=torch.bool).scatter(1, most, True)
    small = known.masked_fill(is_most, _LOG_NOTHING)
    return torch.where(is_most, rest, torch.log1p(-small.exp()))


def _reduce(
    probabilities: Tensor,
    targets: Tensor,
    *,
    entropy: Tensor,
    is_valid: Tensor,
    annotated: Tensor | None,
    voxel_weights: Tensor | None,
    first_foreground: int,
) -> Scale:
    """Sum over voxels what need not be kept per voxel. ``targets`` are 0 where ``is_valid`` is."""
    known = probabilities.new_ones(probabilities.shape[:2]) if annotated is None else annotated.to(probabilities)
    weights = is_valid if voxel_weights is None else is_valid * voxel_weights
    if annotated is not None and entropy.shape[1] > 1:  # one map per output; as a single one, classes have been merged
        weights = weights * known[:, :, None, None, None]
    return Scale(
        overlap=(probabilities * targets).sum(_VOXELS) * known,
        predicted=(probabilities * is_valid).sum(_VOXELS) * known,
        reference=targets.sum(_VOXELS) * known,
        annotated=known,
        entropy=entropy,
        weights=weights.expand_as(entropy),
        first_foreground=first_foreground,
    )
