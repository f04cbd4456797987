"""How well a network restores what is hidden of scans that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medunet.models.pretraining import RestoringScore
from medunet.planning import Plan
from medunet.preprocessing import StoredCase
from medunet.tasks import Task
from medunet.training.pretraining.restoring import Restoring, fill_hidden
from medunet.training.sampling import PatchSampler

_PATCHES_PER_SCAN = 2
_MAX_PATCHES = 64


@dataclass(frozen=True, kw_only=True)
class RestoredPatches:
    """Patches for people to look at, one per row, on the CPU.

    Attributes:
        score: Over all patches that were looked at.
        case_ids: Of the patches that were kept.
        shown: ``(N, C, I, J, K)``: what the network saw.
        restored: ``(N, C, I, J, K)``: what it made of that; what was shown is left as it was.
        truth: ``(N, C, I, J, K)``.
    """

    score: RestoringScore
    case_ids: tuple[str, ...]
    shown: Tensor
    restored: Tensor
    truth: Tensor


def restore_patches(
    network: nn.Module,
    cases: Sequence[StoredCase],
    task: Task,
    plan: Plan,
    objective: Restoring,
    device: torch.device,
    *,
    num_kept: int = 4,
) -> RestoredPatches:
    """Hide parts of unchanged patches and see what the network says.

    Args:
        network: In evaluation mode, on the device.
        cases: At least one.
        task: Of the pretraining.
        plan: Patch and batch.
        objective: What is hidden.
        device: That computes.
        num_kept: Patches for people to look at.
    """
    sampler = PatchSampler(
        cases, task, plan.patch_size, plan.batch_size, plan.spacing, seed=objective.seed, mode="none", num_workers=0
    )
    num_patches = min(_MAX_PATCHES, _PATCHES_PER_SCAN * len(cases))
    kept: list[tuple[str, Tensor, Tensor, Tensor]] = []
    sums = torch.zeros(3, dtype=torch.float64)
    seen: set[str] = set()
    for number in range(-(-num_patches // plan.batch_size)):
        batch = sampler.draw(number)
        hidden = objective.draw(batch)
        shown = fill_hidden(batch.image, hidden)
        with torch.no_grad():
            answer = network(shown.to(device)).float().cpu()
        restored = torch.where(hidden, answer, batch.image)
        is_counted = hidden.expand_as(batch.image)
        for index, image in enumerate((restored, shown)):
            sums[index] += (image - batch.image).abs().double()[is_counted].sum()
        sums[2] += is_counted.sum()
        seen.update(batch.case_ids)
        kept += zip(batch.case_ids, shown, restored, batch.image, strict=True)
    error, error_of_mean = (sums[:2] / sums[2]).tolist()
    chosen = _choose_scans(kept, num_kept)
    return RestoredPatches(
        score=RestoringScore(num_scans=len(seen), num_patches=len(kept), error=error, error_of_mean=error_of_mean),
        case_ids=tuple(case_id for case_id, *_ in chosen),
        shown=torch.stack([shown for _, shown, _, _ in chosen]),
        restored=torch.stack([restored for _, _, restored, _ in chosen]),
        truth=torch.stack([truth for *_, truth in chosen]),
    )


def _choose_scans(
    patches: Sequence[tuple[str, Tensor, Tensor, Tensor]], num_kept: int
) -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """The first patch of each scan, as far as there are scans."""
    firsts = list({patch[0]: patch for patch in reversed(patches)}.values())[::-1]
    return firsts[:num_kept]
