"""V-Net (Milletari 2016, arXiv:1606.04797), 3D and 2D.

5x5x5 convolutions in residual stages of 1, 2, 3, 3 and 3 on the way down and 3, 3, 2 and 1 on the way up; strided
convolutions of 2 go down and double the channels, transposed ones go up; PReLU. MONAI's has a fixed width and takes only
channels that divide 16, so this one is our own. Batch normalisation, which the paper has not, is what its ports add;
``norm="none"`` is the paper's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION, TRANSPOSED_CONVOLUTION
from medunet.networks.choices import (
    Activation,
    Convolution,
    Norm,
    build_activation,
    build_dropout,
    build_norm,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step, Transposed

_KERNEL = 5
_DOWN = (1, 2, 3, 3, 3)
_UP = (1, 2, 3, 3)
"""Convolutions of each stage, finest first."""


class VNetConfig(NetworkConfig):
    """V-Net.

    Attributes:
        norm: After every convolution.
        activation: After every convolution.
        dropout: Probability, of whole channels, after the two deepest stages.
    """

    width_step: ClassVar[int] = 2

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=16, ge=2, multiple_of=2)
    norm: Norm = "batch"
    activation: Activation = "prelu"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Doubled from stage to stage."""
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=number)
            for level, number in enumerate(_DOWN)
        )

    @property
    def min_deepest_voxels(self) -> int:
        """One, where nothing is normalised."""
        return 1 if self.norm == "none" else 2

    @property
    def path(self) -> tuple[Step, ...]:
        """Down and up."""
        steps: list[Step] = [Slide(_KERNEL)] * _DOWN[0]
        for number in _DOWN[1:]:
            steps += [Slide(2, 2), *[Slide(_KERNEL)] * number]
        for number in reversed(_UP):
            steps += [Transposed(2, 2), *[Slide(_KERNEL)] * number]
        return tuple(steps)


class VNet(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: VNetConfig) -> None:
        super().__init__(config)
        dims, features = config.spatial_dims, [stage.features for stage in config.stages]
        last = len(features) - 1
        self.first = _ResidualRow(config, config.in_channels, features[0], features[0], _DOWN[0])
        self.downs = nn.ModuleList(
            _build_resampling(config, CONVOLUTION[dims], features[level], features[level + 1]) for level in range(last)
        )
        self.encoder = nn.ModuleList(
            _ResidualRow(config, features[level + 1], features[level + 1], features[level + 1], _DOWN[level + 1])
            for level in range(last)
        )
        self.dropout = build_dropout(config.dropout, dims)
        # On the way up what comes from below and what is carried over are equally wide, and together as wide as below.
        self.ups = nn.ModuleList(
            _build_resampling(config, TRANSPOSED_CONVOLUTION[dims], features[min(level + 2, last)], features[level])
            for level in range(last)
        )
        self.decoder = nn.ModuleList(
            _ResidualRow(config, 2 * features[level], features[level + 1], features[level + 1], _UP[level])
            for level in range(last)
        )
        self.head = CONVOLUTION[dims](features[1], config.out_channels, 1)
        self.apply(initialize_he)

    def _compute_logits(self, image: Tensor) -> Tensor:
        x = self.first(image)
        skips = [x]
        for level, (down, row) in enumerate(zip(self.downs, self.encoder, strict=True)):
            x = row(down(x))
            if level >= len(self.downs) - 2:
                x = self.dropout(x)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](torch.cat([self.ups[level](x), skips[level]], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _ResidualRow(nn.Module):
    """5x5x5 convolutions beside a shortcut; where the shortcut is narrower, its channels are repeated."""

    def __init__(
        self, config: VNetConfig, in_channels: int, width: int, out_channels: int, num_convolutions: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for position in range(num_convolutions):
            is_last = position == num_convolutions - 1
            layers.append(
                Convolution(
                    config.spatial_dims,
                    before,
                    width,
                    _KERNEL,
                    norm=config.norm,
                    activation=None if is_last else config.activation,
                    bias=True,
                )
            )
            before = width
        self.convolutions = nn.Sequential(*layers)
        self.out_channels = out_channels
        self.activation = build_activation(config.activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, *spatial)`` to ``(B, out_channels, *spatial)``."""
        repeats = -(-self.out_channels // x.shape[1])
        shortcut = torch.cat([x] * repeats, dim=1)[:, : self.out_channels]
        result: Tensor = self.activation(self.convolutions(x) + shortcut)
        return result


def _build_resampling(config: VNetConfig, kind: type[nn.Module], before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        kind(before, after, 2, 2),
        build_norm(config.norm, config.spatial_dims, after),
        build_activation(config.activation, after),
    )
