"""How many patches a batch holds (nnU-Net's rule)."""

from __future__ import annotations

import math

from medunet.planning.cost import MIN_BATCH, CostModel
from medunet.planning.patch import Patch


def choose_batch_size(patch: Patch, costs: CostModel, dataset_voxels: float) -> tuple[int, str]:
    """As many patches as the target pays for, but only a small share of the dataset, and at least two.

    A batch that shows a large part of a small dataset would be much the same every time.

    Args:
        patch: What a batch is made of.
        costs: How patches are weighed.
        dataset_voxels: Voxels of the median case times the number of cases.
    """
    if costs.fixed_batch_size is not None:
        return costs.fixed_batch_size, "what the budget was fitted to"
    affordable = costs.count_affordable(patch.cost, len(patch.size))
    share = round(dataset_voxels * costs.dataset_share / math.prod(patch.size))
    batch_size = max(MIN_BATCH, min(affordable, share))
    reason = (
        f"{affordable} patches of {patch.cost:,.0f} {costs.unit} can be paid for, {costs.dataset_share:.0%} of the "
        f"dataset are {share}; the smaller, and at least {MIN_BATCH}"
    )
    return batch_size, reason
