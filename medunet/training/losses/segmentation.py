"""`SegmentationLoss`: terms, summed at every supervised scale, over the patches of all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.training.losses.overlap import BatchDice
from medunet.training.losses.processes import sum_over_processes
from medunet.training.losses.scale import Scale, build_class_scale, build_region_scale
from medunet.training.losses.term import Term

_SOFT_DICE = BatchDice()


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and its readable part; the same in every process.

    Attributes:
        total: Differentiable scalar.
        soft_dice: Mean soft Dice of the foreground at the finest scale, over the batch, detached, 0 to 1; None where
            nothing is segmented.
    """

    total: Tensor
    soft_dice: Tensor | None = None


def halve_weights(num_scales: int) -> list[float]:
    """Weights of the scales, finest first, with sum 1: each half of the one before (deep supervision)."""
    weights = [0.5**scale for scale in range(num_scales)]
    return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True, kw_only=True)
class SegmentationLoss:
    """A sum of terms.

    Called in every process of a distributed training with as many patches, it gives the loss of all of them.

    Attributes:
        terms: What is added up.
        membership: ``(outputs, codes)`` from `medunet.tasks.compute_membership`, on the device of the logits.
        has_regions: Whether outputs overlap: sigmoid instead of softmax.
        weigh_voxels: Codes -> weights ``(B, 1 or regions, I, J, K)`` of the voxels in cross-entropy; None for 1.
        is_binary: Whether the cross-entropy of classes is that of each class against the rest; of regions it always is.
    """

    terms: tuple[Term, ...]
    membership: Tensor
    has_regions: bool
    weigh_voxels: Callable[[Tensor], Tensor] | None = None
    is_binary: bool = False

    def __call__(self, scales: Sequence[Tensor], codes: Tensor, annotated: Tensor | None = None) -> Loss:
        """Compare logits with codes. Nothing waits for a GPU, unless ``weigh_voxels`` does.

        Args:
            scales: Logits ``(B, outputs, I, J, K)`` of any float type, finest first.
            codes: ``(B, I, J, K)`` uint8 at the finest scale; 255 is ignored: such voxels count in no sum.
            annotated: ``(B, outputs)`` bool: what each case annotates; the rest of its outputs is neither rewarded nor
                punished. None for all.
        """
        views = self._build_views(scales, codes, annotated)
        sums = [term.compute_sums(view) for view in views for term in self.terms]
        sums.append(_SOFT_DICE.compute_sums(views[0]).detach())
        sums = list(torch.split(sum_over_processes(torch.cat(sums)), [len(part) for part in sums]))  # one exchange
        soft_dice = 1 - _SOFT_DICE.compute_loss(sums.pop().detach())
        weights = [weight for weight in halve_weights(len(views)) for _ in self.terms]
        values = [term.compute_loss(part) for term, part in zip(self.terms * len(views), sums, strict=True)]
        # Weights stay numbers: as a tensor they would have to be copied to the device, which waits for it.
        total = torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum()
        return Loss(total=total, soft_dice=soft_dice)

    def _build_views(self, scales: Sequence[Tensor], codes: Tensor, annotated: Tensor | None) -> list[Scale]:
        weights = None if self.weigh_voxels is None else self.weigh_voxels(codes)
        return [
            self._build_view(
                logits,
                _shrink(codes.unsqueeze(1), logits.shape[2:]).squeeze(1),
                annotated,
                None if weights is None else _shrink(weights, logits.shape[2:]),
            )
            for logits in scales
        ]

    def _build_view(self, logits: Tensor, codes: Tensor, annotated: Tensor | None, weights: Tensor | None) -> Scale:
        if self.has_regions:
            return build_region_scale(logits, codes, self.membership, annotated, weights)
        return build_class_scale(logits, codes, annotated, weights, is_binary=self.is_binary)


def _shrink(maps: Tensor, shape: torch.Size) -> Tensor:
    """Nearest neighbour, which keeps codes codes."""
    return maps if maps.shape[2:] == shape else F.interpolate(maps, size=list(shape), mode="nearest-exact")
