"""`NetworkConfig`: what describes a network of the catalogue, and which sizes of image it takes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from medunet.networks.receptive_field import Step, compute_receptive_field

SHARED_FIELDS = frozenset({"spatial_dims", "in_channels", "out_channels"})
"""What every network is told; all other fields are its own options."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One resolution of an encoder.

    Attributes:
        features: Channels.
        stride: Against the stage before, the same along every axis; 1 for the first.
        convolutions: Convolutions or blocks in a row.
    """

    features: int
    stride: int
    convolutions: int


class NetworkConfig(BaseModel, ABC):
    """A network, completely described; two equal configs build the same layers. Defaults are those of the paper.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        out_channels: Output channels.
        width: Channels of the first stage; all others are multiples of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width_step: ClassVar[int] = 1
    """What ``width`` must be a multiple of."""

    spatial_dims: Literal[2, 3] = 2
    in_channels: int = Field(default=1, ge=1)
    out_channels: int = Field(default=2, ge=1)
    width: int = Field(default=64, ge=1)

    @classmethod
    def for_patch(cls, patch_size: Sequence[int], **fields: Any) -> Self:
        """The paper's setting for a patch of this size, or the nearest that takes it; ``fields`` go before.

        Args:
            patch_size: Two or three axes, at least 1 each.
            **fields: Of the config.
        """
        return cls(spatial_dims=len(patch_size), **fields)  # type: ignore[arg-type]  # pydantic checks it

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Resolutions of the encoder, finest first."""

    @property
    @abstractmethod
    def path(self) -> tuple[Step, ...] | None:
        """The longest way from image to logits, for the receptive field; None where every voxel sees the whole patch."""

    @property
    def divisor(self) -> int:
        """What every axis of a patch must be a multiple of."""
        return math.prod(stage.stride for stage in self.stages)

    @property
    def min_edge(self) -> int:
        """Voxels that every axis of a patch must have."""
        return 1

    @property
    def min_deepest_voxels(self) -> int:
        """Voxels of the coarsest grid that the network needs: a normalisation over one voxel would leave nothing of it."""
        return 2

    @property
    def num_scales(self) -> int:
        """Logits that `SegmentationNetwork.forward_scales` gives."""
        return 1

    @property
    def receptive_field(self) -> int | None:
        """Edge of the box that a voxel of the logits sees, normalisations apart; None for the whole patch."""
        return None if self.path is None else compute_receptive_field(self.path)

    def find_next_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The smallest size that fits and is no smaller along any axis.

        Example:
            >>> from medunet.networks.unet_plus_plus import UNetPlusPlusConfig
            >>> UNetPlusPlusConfig().find_next_size((100, 31)), UNetPlusPlusConfig().find_next_size((9, 9))
            ((112, 32), (16, 32))
        """
        cells = [math.ceil(max(n, self.min_edge) / self.divisor) for n in size]
        while math.prod(cells) < self.min_deepest_voxels:
            cells[-1] += 1
        return tuple(cell * self.divisor for cell in cells)

    def find_surroundings(self, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Voxels before and after a patch that `SegmentationNetwork.compute_inside` has to see, too; none but of networks without
        padding.
        """
        return ((0, 0),) * len(size)

    def check_size(self, size: Sequence[int]) -> None:
        """Refuse an image that the network cannot take.

        Raises:
            ValueError: Names the rule that it breaks and the next size that fits.
        """
        if (fitting := self.find_next_size(size)) != tuple(size):
            found, wanted = ("x".join(map(str, each)) for each in (size, fitting))
            msg = f"The network {self._find_rule(size)}, got {found}; pad the image or use {wanted}, the next size that fits."
            raise ValueError(msg)

    def _find_rule(self, size: Sequence[int]) -> str:
        """Which rule a size breaks, the strictest first."""
        if min(size) < self.min_edge:
            return f"takes sizes of {self.min_edge} voxels or more along every axis"
        if any(n % self.divisor for n in size):
            return f"takes sizes that are multiples of {self.divisor}"
        return f"needs {self.min_deepest_voxels} cells of {self.divisor} voxels per axis or more on its coarsest grid"


def list_options(config: NetworkConfig) -> dict[str, Any]:
    """What of a config is the network's own, as plain JSON."""
    return config.model_dump(mode="json", exclude=set(SHARED_FIELDS))
