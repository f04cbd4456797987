"""DeepLab v3+ (Chen 2018, arXiv:1802.02611), 2D and 3D.

A dilated ResNet-101 gives features at 1/16 of the resolution, an atrous pyramid sees them at several distances and as a
whole, and a small decoder adds features from 1/4 of the resolution before the last interpolation. The paper's best network
has a modified Xception in front; the ResNet-101 is that of its ablations.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medunet.networks.atrous_pyramid import AtrousPyramid
from medunet.networks.blocks import CONVOLUTION
from medunet.networks.choices import Activation, Convolution, Norm, initialize_he, resize
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Linear, Slide, Step
from medunet.networks.resnet import (
    RESNET_101,
    Block,
    ResNetEncoder,
    list_resnet_features,
    list_resnet_path,
    list_resnet_stages,
)

_RATES: dict[int, tuple[int, ...]] = {16: (6, 12, 18), 8: (12, 24, 36)}


class DeepLabConfig(NetworkConfig):
    """DeepLab v3+.

    Attributes:
        blocks: Of the encoder's stages.
        block: What they are made of: ``bottleneck``, or ``basic`` as in ResNet-18 and ResNet-34.
        output_stride: Of the encoder: 16 with dilations 6, 12 and 18, or 8 with twice those.
        rates: Dilations of the pyramid; None takes those of the output stride.
        has_image_mean: Whether the pyramid has the mean over the image.
        norm: After every convolution.
        activation: After every convolution.
        dropout: Probability, after the pyramid.
    """

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=21, ge=1)
    blocks: tuple[int, int, int, int] = RESNET_101
    block: Block = "bottleneck"
    output_stride: Literal[8, 16] = 16
    rates: tuple[int, ...] | None = None
    has_image_mean: bool = True
    norm: Norm = "batch"
    activation: Activation = "relu"
    dropout: float = Field(default=0.5, ge=0, lt=1)

    @property
    def pyramid_rates(self) -> tuple[int, ...]:
        """Dilations of the pyramid."""
        return _RATES[self.output_stride] if self.rates is None else self.rates

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the encoder."""
        return list_resnet_stages(self.width, self.blocks, self.output_stride, self.block)

    @property
    def path(self) -> tuple[Step, ...] | None:
        """None with the mean over the image; otherwise through the widest dilation."""
        if self.has_image_mean:
            return None
        return (
            *list_resnet_path(self.blocks, self.output_stride, self.block),
            Slide(3, 1, max(self.pyramid_rates)),
            Linear(self.output_stride // 4),
            Slide(3),
            Slide(3),
            Linear(4),
        )


class DeepLab(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: DeepLabConfig) -> None:
        super().__init__(config)
        dims, width, norm, activation = config.spatial_dims, config.width, config.norm, config.activation
        features = list_resnet_features(width, config.block)
        self.encoder = ResNetEncoder(
            dims,
            config.in_channels,
            width,
            blocks=config.blocks,
            output_stride=config.output_stride,
            block=config.block,
            norm=norm,
            activation=activation,
        )
        middle = 4 * width  # 256 in the paper
        self.pyramid = AtrousPyramid(
            dims,
            features[-1],
            middle,
            rates=config.pyramid_rates,
            has_image_mean=config.has_image_mean,
            norm=norm,
            activation=activation,
            dropout=config.dropout,
        )
        low = max(1, 3 * width // 4)  # 48 in the paper
        self.low_level = Convolution(dims, features[1], low, 1, norm=norm, activation=activation)
        self.decoder = nn.Sequential(
            Convolution(dims, middle + low, middle, norm=norm, activation=activation),
            Convolution(dims, middle, middle, norm=norm, activation=activation),
            CONVOLUTION[dims](middle, config.out_channels, 1),
        )
        self.apply(initialize_he)

    def _compute_logits(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        low = self.low_level(features[1])
        x = resize(self.pyramid(features[-1]), low.shape[2:])
        logits = self.decoder(torch.cat([x, low], dim=1))
        return resize(logits, image.shape[2:])
