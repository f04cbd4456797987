"""How far the members of an ensemble agree: where folds or flips see different things, the mask is less sure.

What the members found is counted tile by tile while the network runs, on the device and without waiting for it; at the end
it is a few numbers per label. `medunet.postprocessing.calibration` says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medunet.tasks import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AgreementCounts:
    """What the members of one mask found, in voxels of the network's grid.

    Voxels of overlapping tiles count once per tile, which makes no difference for shares.

    Attributes:
        members: Who they are, such as ``"8 flips"`` or ``"5 networks"``. Numbers of other members cannot be compared.
        common: Label -> for each member, voxels that it and the mean of all members give to the label.
        total: Label -> for each member, its voxels of the label and those of the mean, added up.
    """

    members: str
    common: Mapping[str, tuple[int, ...]]
    total: Mapping[str, tuple[int, ...]]


def compute_agreement(counts: AgreementCounts) -> dict[str, float | None]:
    """Mean over the members of their Dice with the mean of all.

    Returns:
        Label -> 0 to 1; None where neither a member nor the mean found anything of it.

    Example:
        >>> compute_agreement(AgreementCounts(members="2 flips", common={"liver": (3, 4)}, total={"liver": (8, 8)}))
        {'liver': 0.875}
    """
    agreement: dict[str, float | None] = {}
    for name, common in counts.common.items():
        dices = [2 * shared / total for shared, total in zip(common, counts.total[name], strict=True) if total]
        agreement[name] = sum(dices) / len(dices) if dices else None
    return agreement


def join_agreement(counts: Sequence[AgreementCounts]) -> AgreementCounts:
    """The members of several networks, each counted with the mean of its own network.

    So the flips of five folds can be held against what the flips of one fold said in validation: there, no case has more
    than one network that has not learnt from it.

    Args:
        counts: One per network, of the same members and labels.

    Raises:
        ValueError: If the members differ, or there are none.
    """
    if len({of_network.members for of_network in counts}) != 1:
        msg = f"Members {sorted({of_network.members for of_network in counts})} cannot be joined; expected the same for all."
        raise ValueError(msg)
    return AgreementCounts(
        members=counts[0].members,
        common={name: tuple(n for one in counts for n in one.common[name]) for name in counts[0].common},
        total={name: tuple(n for one in counts for n in one.total[name]) for name in counts[0].total},
    )


class AgreementCounter:
    """Adds up tiles. Nothing waits for the device before `read`.

    Args:
        task: Gives the labels.
        members: Who they are, see `AgreementCounts`.
        num_members: How many.
        device: Where the tiles are.
    """

    def __init__(self, task: Task, members: str, num_members: int, device: torch.device | str = "cpu") -> None:
        import torch  # reading a model's ranges and flags needs none

        self._labels = list(task.labels)
        self._has_regions = task.has_regions
        self._num_outputs = task.num_outputs
        self._members = members
        shape = (num_members, task.num_outputs)
        self._common = torch.zeros(shape, dtype=torch.int64, device=device)
        self._total = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, members: Tensor, mean: Tensor) -> None:
        """Count one tile, or several.

        Args:
            members: What each member decides, `decide` of its logits: ``(num_members, ...)``, flips turned back.
            mean: What the mean of their logits decides, ``(...)``.
        """
        self.keep(*self.count(members, mean))

    def count(self, members: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """What `add` would add, ``(num_members, num_outputs)`` twice, for `keep`: who may have to compute the tiles again waits."""
        if self._has_regions:
            over = tuple(place for place in range(1, members.ndim) if place != 2)  # all but members and regions
            return (members & mean).sum(over), members.sum(over) + mean[None].sum(over)
        common = self._count_classes(members.masked_fill(members != mean, 0))
        return common, self._count_classes(members) + self._count_classes(mean[None])

    def keep(self, common: Tensor, total: Tensor) -> None:
        """Add what was counted; needs no memory."""
        self._common += common
        self._total += total

    def read(self) -> AgreementCounts:
        """What was counted so far."""
        first = 0 if self._has_regions else 1  # background is no label
        common, total = (
            counts[:, first:].T.tolist()
            for counts in (self._common, self._total)  # (labels, members)
        )
        return AgreementCounts(
            members=self._members,
            common={name: tuple(of_label) for name, of_label in zip(self._labels, common, strict=True)},
            total={name: tuple(of_label) for name, of_label in zip(self._labels, total, strict=True)},
        )

    def _count_classes(self, decisions: Tensor) -> Tensor:
        """Voxels per class, ``(len(decisions), num_outputs)``; scattered, because torch.bincount waits for the device."""
        import torch

        classes = decisions.reshape(len(decisions), -1).long()
        counts = torch.zeros((len(decisions), self._num_outputs), dtype=torch.int64, device=classes.device)
        return counts.scatter_add_(1, classes, torch.ones_like(classes))


def decide(logits: Tensor, *, has_regions: bool) -> Tensor:
    """What logits say about each voxel, as `AgreementCounter` counts it and a byte holds it.

    Args:
        logits: ``(B, num_outputs, ...)``.
        has_regions: Whether outputs are regions, which may overlap, or classes.

    Returns:
        The class, ``(B, ...)`` uint8; for regions whether the voxel is inside, ``(B, num_outputs, ...)`` bool.
    """
    import torch

    return logits > 0 if has_regions else logits.argmax(dim=1).to(torch.uint8)
