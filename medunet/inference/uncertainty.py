"""How sure networks are of each voxel: entropy of their probabilities, 0 to 1.

Entropy is Shannon's (doi:10.1002/j.1538-7305.1948.tb01338.x) over its largest value; that of an ensemble's mean is the predictive
entropy of Lakshminarayanan and others (arXiv:1612.01474). It is calibrated no better than the network is
(doi:10.1109/TMI.2020.3006437).

Classes are handled one after the other: the memory is that of two or three maps, however many classes there are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def compute_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of classes that exclude each other.

    Args:
        probabilities: ``(classes, ...)``, after softmax.

    Returns:
        ``(...)`` float32: 0 where one class is certain, 1 where all are equally probable; 0 with a single class.

    Example:
        >>> compute_entropy(torch.tensor([[1.0, 0.5], [0.0, 0.5]])).tolist()
        [0.0, 1.0]
    """
    total = torch.zeros(probabilities.shape[1:], device=probabilities.device)
    for probability in probabilities:
        total += torch.special.entr(probability.float())
    return _normalize(total, len(probabilities))


def compute_entropy_of_logits(logits: Tensor) -> Tensor:
    """`compute_entropy` of softmax of ``(classes, ...)`` logits, without a copy of them."""
    peak = logits.amax(dim=0).float()
    total, weighted = torch.zeros_like(peak), torch.zeros_like(peak)
    for logit in logits:
        below = logit.float() - peak
        weight = torch.exp(below)
        total += weight
        weighted += weight.mul_(below)
    return _normalize(total.log() - weighted / total, len(logits))


def compute_region_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of regions that overlap: that of the least certain region.

    The largest, not the mean: a voxel about which one region is in doubt is in doubt, however many others are sure.

    Args:
        probabilities: ``(regions, ...)``, after sigmoid.

    Returns:
        ``(...)`` float32: 0 where every region is certain, 1 where one has a probability of one half.
    """
    largest = torch.zeros(probabilities.shape[1:], device=probabilities.device)
    for probability in probabilities:
        inside = probability.float()
        entropy = torch.special.entr(inside) + torch.special.entr(1 - inside)
        torch.maximum(largest, entropy, out=largest)
    return _normalize(largest, 2)


def compute_region_entropy_of_logits(logits: Tensor) -> Tensor:
    """`compute_region_entropy` of sigmoid of ``(regions, ...)`` logits."""
    # The nearest to a logit of 0 is the least certain.
    nearest = logits.abs().amin(dim=0).float()
    return compute_region_entropy(torch.sigmoid(nearest)[None])


def _normalize(entropy: Tensor, num_classes: int) -> Tensor:
    """From nats to 0..1; rounding may lead out of it."""
    return entropy.div_(math.log(max(num_classes, 2))).clamp_(0, 1)
