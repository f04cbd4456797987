"""Attention U-Net (Oktay 2018, arXiv:1804.03999), from MONAI, 2D and 3D.

A U-Net whose skips pass through gates: what comes up from below decides voxel by voxel how much of the skip is let through.
MONAI's goes down by strided convolutions and up by transposed ones of 3x3.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step, Transposed


class AttentionUNetConfig(NetworkConfig):
    """Attention U-Net.

    Attributes:
        num_levels: Resolutions.
        dropout: Probability.
    """

    width_step: ClassVar[int] = 2

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=16, ge=2, multiple_of=2)
    num_levels: int = Field(default=5, ge=2)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Doubled from level to level."""
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=2)
            for level in range(self.num_levels)
        )

    @property
    def path(self) -> tuple[Step, ...]:
        """Down and up; the gates look at one voxel only."""
        depth = self.num_levels - 1
        up: tuple[Step, ...] = (Transposed(3, 2, 1), Slide(3))
        return (Slide(3), Slide(3), *(Slide(3, 2), Slide(3)) * depth, *up * depth)


class AttentionUNet(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: AttentionUNetConfig) -> None:
        from monai.networks.nets import AttentionUnet as MonaiAttentionUnet

        super().__init__(config)
        self.network: nn.Module = MonaiAttentionUnet(
            spatial_dims=config.spatial_dims,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            channels=[stage.features for stage in config.stages],
            strides=[2] * (config.num_levels - 1),
            dropout=config.dropout,
        )

    def _compute_logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits
