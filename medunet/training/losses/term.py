"""`Term`: what every part of a loss can do.

A term first adds up over voxels and patches, then turns the sums into its loss. Between the two, the sums of several
processes are added (`medunet.training.losses.processes`), so that a loss is the one of all patches together.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from medunet.training.losses.scale import Scale


class Term(Protocol):
    """A part of a loss."""

    def compute_sums(self, scale: Scale) -> Tensor:
        """``(n,)`` numbers that simply add up over patches, whichever process holds them."""
        ...

    def compute_loss(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, from the sums over all patches."""
        ...
