"""Whether an exported network answers like the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from medunet.errors import ModelError
from medunet.planning import Plan

MAX_RELATIVE_DIFFERENCE = 3e-4
"""Of a logit, as a share of the largest: what float32 sums in another order may cost."""
_NUM_PATCHES = 3


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported network compares with the original on random patches.

    Attributes:
        num_patches: Patches of normally distributed values, all at once.
        max_relative_difference: Largest difference of a logit as a share of the largest logit.
        different_labels: Share of the voxels with another winner (of regions: on another side of zero).
    """

    num_patches: int
    max_relative_difference: float
    different_labels: float

    def to_json(self) -> dict[str, float]:
        """For the description beside the export."""
        return asdict(self)


def check_parity(
    network: nn.Module, exported: Callable[[Tensor], Tensor], plan: Plan, *, has_regions: bool, what: str
) -> Parity:
    """Compare an exported network with the original in float32.

    Args:
        network: The original, on the CPU, in evaluation mode.
        exported: Patches ``(B, C, *patch_size)`` to logits.
        plan: Size and channels of a patch.
        has_regions: Whether outputs are regions rather than classes.
        what: Was exported, for the message.

    Raises:
        ModelError: If a logit differs by more than `MAX_RELATIVE_DIFFERENCE`.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (_NUM_PATCHES, plan.network.in_channels, *plan.patch_size)
    patches = torch.randn(shape, generator=generator)
    with torch.inference_mode():
        expected = network(patches).float()
        found = exported(patches)
    largest = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((found - expected).abs().max()) / largest
    is_other = (found > 0) != (expected > 0) if has_regions else found.argmax(1) != expected.argmax(1)
    if not difference <= MAX_RELATIVE_DIFFERENCE:  # NaN is no parity either
        msg = (
            f"The {what} network answers differently from the original: by {difference:.1e} of the largest logit, where at "
            f"most {MAX_RELATIVE_DIFFERENCE:.0e} was expected. Nothing was written; try another format or other versions of the packages."
        )
        raise ModelError(msg)
    return Parity(
        num_patches=_NUM_PATCHES,
        max_relative_difference=difference,
        different_labels=float(is_other.float().mean()),
    )
