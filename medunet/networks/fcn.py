"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s (Long 2015, arXiv:1411.4038), 2D and 3D.

VGG-16 with its fully connected layers as convolutions (7x7 and 1x1) scores classes at 1/32 of the resolution. FCN-32s
interpolates them at once; FCN-16s doubles them, adds scores from the fourth pooling, and FCN-8s once more from the third.
Transposed convolutions start as linear interpolation. Instead of the original's border of 100 voxels and its crops,
convolutions are padded, so that both grids agree.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION, TRANSPOSED_CONVOLUTION
from medunet.networks.choices import (
    MAX_POOL,
    Activation,
    Convolution,
    Interpolate,
    Norm,
    Upsampling,
    build_dropout,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Linear, Repeat, Slide, Step, Transposed
from medunet.networks.vgg import (
    VGG_CONVOLUTIONS,
    VGGConvolutions,
    build_vgg_levels,
    list_vgg_features,
    list_vgg_path,
    list_vgg_stages,
)

_FULLY_CONNECTED = 64
"""Channels of the fully connected layers over the width: 4096 over 64."""


class FCNConfig(NetworkConfig):
    """A fully convolutional network.

    Attributes:
        convolutions: Of the five levels; 13 in all, as in VGG-16.
        output_stride: 32, 16 or 8: grid of the finest scores.
        upsampling: Of the scores.
        norm: After every convolution; VGG has none.
        activation: After every convolution.
        dropout: Probability, after the fully connected layers.
    """

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=21, ge=1)
    convolutions: VGGConvolutions = VGG_CONVOLUTIONS
    output_stride: Literal[8, 16, 32] = 8
    upsampling: Upsampling = "transposed"
    norm: Norm = "none"
    activation: Activation = "relu"
    dropout: float = Field(default=0.5, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """VGG's levels and the fully connected layers."""
        deepest = Stage(features=_FULLY_CONNECTED * self.width, stride=2, convolutions=2)
        return (*list_vgg_stages(self.width, self.convolutions), deepest)

    @property
    def min_deepest_voxels(self) -> int:
        """One, where nothing is normalised."""
        return 1 if self.norm == "none" else 2

    @property
    def factors(self) -> tuple[int, ...]:
        """By which scores become finer, deepest first: 2, 2 and 8 for FCN-8s."""
        return {32: (32,), 16: (2, 16), 8: (2, 2, 8)}[self.output_stride]

    @property
    def path(self) -> tuple[Step, ...]:
        """VGG, the 7x7 convolution, and all interpolations."""
        return (
            *list_vgg_path(self.convolutions),
            Slide(7),
            *(_describe_upsampling(self.upsampling, factor) for factor in self.factors),
        )


class FCN(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: FCNConfig) -> None:
        super().__init__(config)
        dims, width, classes = config.spatial_dims, config.width, config.out_channels
        features, connected = list_vgg_features(width), _FULLY_CONNECTED * width
        self.pool = MAX_POOL[dims](2)
        self.levels = build_vgg_levels(
            dims,
            config.in_channels,
            width,
            norm=config.norm,
            activation=config.activation,
            convolutions=config.convolutions,
        )
        self.connected = nn.Sequential(
            Convolution(dims, features[-1], connected, 7, norm=config.norm, activation=config.activation),
            build_dropout(config.dropout),
            Convolution(dims, connected, connected, 1, norm=config.norm, activation=config.activation),
            build_dropout(config.dropout),
        )
        self.score = CONVOLUTION[dims](connected, classes, 1)
        # Skips are indexed from the deepest: scores of pool4, then of pool3.
        widths = features[3 : 3 - len(config.factors) + 1 : -1]
        self.skips = nn.ModuleList(CONVOLUTION[dims](channels, classes, 1) for channels in widths)
        self.upsamplers = nn.ModuleList(
            _build_upsampling(config.upsampling, dims, classes, factor) for factor in config.factors
        )
        self.apply(initialize_he)
        for module in (self.score, *self.skips):  # scores begin at zero, and skips add nothing at first
            nn.init.zeros_(module.get_parameter("weight"))
        for module in self.upsamplers:
            if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
                _initialize_linear(module)

    def _compute_logits(self, image: Tensor) -> Tensor:
        pooled = []
        x = image
        for level in self.levels:
            x = self.pool(level(x))
            pooled.append(x)
        scores = self.score(self.connected(x))
        # pool4 and pool3 are the fourth and the third.
        for skip, upsampler, features in zip(self.skips, self.upsamplers, pooled[3::-1], strict=False):
            scores = upsampler(scores) + skip(features)
        logits: Tensor = self.upsamplers[-1](scores)
        return logits


def _describe_upsampling(name: Upsampling, factor: int) -> Step:
    if name == "transposed":
        return Transposed(2 * factor, factor, factor // 2)
    return Linear(factor) if name == "linear" else Repeat(factor)


def _build_upsampling(name: Upsampling, dims: int, channels: int, factor: int) -> nn.Module:
    if name == "transposed":
        return TRANSPOSED_CONVOLUTION[dims](channels, channels, 2 * factor, factor, factor // 2, bias=False)
    return Interpolate(dims, factor, name)


def _initialize_linear(module: nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
    """Weights by which a transposed convolution interpolates linearly, each channel by itself."""
    size, factor = module.kernel_size[0], module.stride[0]
    ramp = 1 - (torch.arange(size, dtype=torch.float32) - (size - 1) / 2).abs() / factor
    kernel = ramp
    for _ in module.kernel_size[1:]:
        kernel = kernel[..., None] * ramp
    with torch.no_grad():
        module.weight.zero_()
        for channel in range(module.in_channels):
            module.weight[channel, channel] = kernel.to(module.weight.device)
