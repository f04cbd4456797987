"""The U-Net that courses teach: six small levels whose transposed convolutions are narrower than what they restore.

Its published table is for RGB images of 256 x 256 with one sigmoid output and has 6,667,639 parameters: levels of 8 to
256 channels, a bottleneck of 512, transposed convolutions of 64 to 2 channels, and a last pair of convolutions as wide as
the pair before it (16). A test has the table layer by layer. It answers with logits, as all networks here do; the sigmoid
belongs to the loss. In 3D it is the same with cubes for squares.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION
from medunet.networks.choices import (
    MAX_POOL,
    Activation,
    Convolution,
    Norm,
    Upsampling,
    build_dropout,
    build_upsampling,
    find_upsampling_step,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step


class CourseUNetConfig(NetworkConfig):
    """The course U-Net.

    Attributes:
        num_levels: Levels above the bottleneck.
        upsampling: Of the decoder.
        norm: After every convolution.
        activation: After every convolution.
        dropout: Probability, in the bottleneck.
    """

    width_step: ClassVar[int] = 4

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=1, ge=1)
    width: int = Field(default=8, ge=4, multiple_of=4)
    num_levels: int = Field(default=6, ge=1)
    upsampling: Upsampling = "transposed"
    norm: Norm = "none"
    activation: Activation = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The levels and the bottleneck."""
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=2)
            for level in range(self.num_levels + 1)
        )

    @property
    def min_deepest_voxels(self) -> int:
        """One, where nothing is normalised."""
        return 1 if self.norm == "none" else 2

    @property
    def path(self) -> tuple[Step, ...]:
        """Down, through the bottleneck, and up."""
        row: tuple[Step, ...] = (Slide(3), Slide(3))
        down = (*row, Slide(2, 2)) * self.num_levels
        return (*down, *row, *((find_upsampling_step(self.upsampling), *row) * self.num_levels))


class CourseUNet(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: CourseUNetConfig) -> None:
        super().__init__(config)
        dims, features = config.spatial_dims, [stage.features for stage in config.stages]
        self.pool = MAX_POOL[dims](2)
        self.encoder = nn.ModuleList(
            _build_row(config, before, after)
            for before, after in zip([config.in_channels, *features[:-1]], features, strict=True)
        )
        self.dropout = build_dropout(config.dropout)
        # A quarter of the level's width: 2 channels for the finest level of 8.
        narrow = [width // 4 for width in features]
        self.upsamplers = nn.ModuleList(
            build_upsampling(config.upsampling, dims, features[level + 1], narrow[level])
            for level in range(config.num_levels)
        )
        # The finest pair stays as wide as the one before it, where there is one.
        widths = [features[max(level, min(1, config.num_levels - 1))] for level in range(config.num_levels)]
        self.decoder = nn.ModuleList(
            _build_row(config, narrow[level] + features[level], widths[level]) for level in range(config.num_levels)
        )
        self.head = CONVOLUTION[dims](widths[0], config.out_channels, 1)
        self.apply(initialize_he)

    def _compute_logits(self, image: Tensor) -> Tensor:
        skips = []
        x = image
        for level, row in enumerate(self.encoder):
            x = row(self.pool(x) if level else x)
            skips.append(x)
        x = self.dropout(x)
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](torch.cat([self.upsamplers[level](x), skips[level]], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _build_row(config: CourseUNetConfig, before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            Convolution(config.spatial_dims, width, after, norm=config.norm, activation=config.activation)
            for width in (before, after)
        )
    )
