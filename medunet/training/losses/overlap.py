"""Terms that compare sets: Dice over the batch or per patch, Tversky, generalised Dice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.training.losses.scale import Scale

_SMOOTH = 1e-5  # nnU-Net's and MONAI's


@dataclass(frozen=True, kw_only=True)
class BatchDice:
    """``1 - soft Dice`` of the foreground, each label over the whole batch (Milletari 2016, doi:10.1109/3DV.2016.79).

    A label that is absent from the batch and not predicted scores 1. Labels that no case of the batch annotates are left
    out of the mean; without any, the loss is 1 and has no gradient.
    """

    def compute_sums(self, scale: Scale) -> Tensor:
        """Per label: overlap, size of prediction and reference, cases that annotate it."""
        size = scale.predicted + scale.reference
        return _add_up(scale.overlap, size, scale.annotated, first=scale.first_foreground)

    def compute_loss(self, sums: Tensor) -> Tensor:
        """Mean over the labels that are annotated."""
        overlap, size, num_cases = sums.reshape(3, -1)
        return 1 - _average((2 * overlap + _SMOOTH) / (size + _SMOOTH), num_cases > 0)


@dataclass(frozen=True, kw_only=True)
class PatchDice:
    """``1 - soft Dice`` of the foreground, each label in each patch: nnU-Net's where its plan has ``batch_dice: false``.

    A label that is absent from a patch scores 1 if it is not predicted, and 0 for the slightest probability.
    """

    def compute_sums(self, scale: Scale) -> Tensor:
        """Sum of Dice over patches and labels, and their number."""
        size = scale.predicted + scale.reference
        dice = (2 * scale.overlap + _SMOOTH) / (size + _SMOOTH)
        annotated = scale.annotated[:, scale.first_foreground :]
        return torch.stack([(dice[:, scale.first_foreground :] * annotated).sum(), annotated.sum()])

    def compute_loss(self, sums: Tensor) -> Tensor:
        """Mean over patches and labels."""
        return 1 - sums[0] / sums[1].clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Tversky:
    """``1 - Tversky index`` of the foreground over the batch: Dice that weighs its two errors (Salehi 2017,
    arXiv:1706.05721).

    Attributes:
        false_positives: Weight of what is predicted and wrong; the paper's alpha.
        false_negatives: Weight of what is missed; the paper's beta. With 0.5 for both it is Dice.
    """

    false_positives: float = 0.3
    false_negatives: float = 0.7

    def compute_sums(self, scale: Scale) -> Tensor:
        """Per label: overlap, size of the prediction, size of the reference, cases that annotate it."""
        sums = (scale.overlap, scale.predicted, scale.reference, scale.annotated)
        return _add_up(*sums, first=scale.first_foreground)

    def compute_loss(self, sums: Tensor) -> Tensor:
        """Mean over the labels that are annotated."""
        overlap, predicted, reference, num_cases = sums.reshape(4, -1)
        errors = self.false_positives * (predicted - overlap) + self.false_negatives * (reference - overlap)
        return 1 - _average((overlap + _SMOOTH) / (overlap + errors + _SMOOTH), num_cases > 0)


@dataclass(frozen=True, kw_only=True)
class GeneralizedDice:
    """One Dice of all outputs together, each weighed by ``1 / size^2`` of its reference (Sudre 2017, arXiv:1707.03237).

    Background counts, as in the paper. Weights are relative to the largest one, so that the smoothing term means the same
    in small and large patches; an output that is absent from the batch gets the largest.
    """

    def compute_sums(self, scale: Scale) -> Tensor:
        """Per output: overlap, size of the prediction, size of the reference."""
        return _add_up(scale.overlap, scale.predicted, scale.reference, first=0)

    def compute_loss(self, sums: Tensor) -> Tensor:
        """``1 - 2 sum(weight overlap) / sum(weight size)``."""
        overlap, predicted, reference = sums.reshape(3, -1)
        is_present = reference > 0
        smallest = reference.masked_fill(~is_present, torch.inf).amin()
        weights = torch.where(is_present, (smallest / reference.clamp(min=1)) ** 2, 1.0)
        size = (weights * (predicted + reference)).sum()
        dice: Tensor = (2 * (weights * overlap).sum() + _SMOOTH) / (size + _SMOOTH)
        return 1 - dice


def _add_up(*numbers: Tensor, first: int) -> Tensor:
    """Sum each ``(B, outputs)`` over the batch, from the given output on, and string them together."""
    return torch.cat([number[:, first:].sum(0) for number in numbers])


def _average(scores: Tensor, counts: Tensor) -> Tensor:
    return (scores * counts).sum() / counts.sum().clamp(min=1)
