"""What networks say about a scan, before it becomes a label map."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from medunet.planning import Plan
from medunet.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The mean logits of networks that share a plan.

    Attributes:
        logits: ``(num_outputs, I, J, K)`` float32 on the network's grid.
        grid: Where they lie.
        plan: Of the networks.
        num_networks: How many they are; a mean with others counts each once.
    """

    logits: Tensor
    grid: Volume
    plan: Plan
    num_networks: int = 1


def build_patch_key(plan: Plan) -> Hashable:
    """Equal for plans whose networks see the same patches of the same voxels, so that their logits may be averaged."""
    return build_voxel_key(plan), plan.patch_size, plan.num_previous_labels, plan.num_neighbour_slices, plan.network


def build_voxel_key(plan: Plan) -> Hashable:
    """Equal for plans that preprocess a scan to the same voxels."""
    return plan.modality, plan.orientation, plan.spacing, plan.normalization


def merge_predictions(predictions: Iterable[Prediction]) -> list[Prediction]:
    """One prediction per plan: where several share one, the mean of their logits over the networks.

    Args:
        predictions: Of one scan.
    """
    merged: dict[Hashable, Prediction] = {}
    for prediction in predictions:
        key = build_patch_key(prediction.plan)
        merged[key] = _average(merged[key], prediction) if key in merged else prediction
    return list(merged.values())


def _average(one: Prediction, other: Prediction) -> Prediction:
    num_networks = one.num_networks + other.num_networks
    logits = (
        (one.logits * one.num_networks)
        .add_(other.logits.to(one.logits.device), alpha=other.num_networks)
        .div_(num_networks)
    )
    return replace(one, logits=logits, num_networks=num_networks)
