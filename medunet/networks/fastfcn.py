"""FastFCN (Wu 2019, arXiv:1903.11816): joint pyramid upsampling in place of a dilated encoder, 2D and 3D.

A plain ResNet goes down to 1/32. Its last three stages are brought to one width and to the grid of the first of them (1/8),
put side by side, and seen by four convolutions of dilations 1, 2, 4 and 8; so the cheap encoder stands in for the dilated
one, and the head works at 1/8.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medunet.networks.atrous_pyramid import AtrousPyramid
from medunet.networks.blocks import CONVOLUTION
from medunet.networks.choices import (
    Activation,
    Convolution,
    Norm,
    build_activation,
    build_dropout,
    build_norm,
    initialize_he,
    resize,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Linear, Slide, Step
from medunet.networks.resnet import Block, ResNetEncoder, list_resnet_features, list_resnet_path, list_resnet_stages

_RESNET_50 = (3, 4, 6, 3)
_DILATIONS = (1, 2, 4, 8)


class FastFCNConfig(NetworkConfig):
    """FastFCN.

    Attributes:
        blocks: Of the encoder's stages.
        block: What they are made of: ``bottleneck``, or ``basic`` as in ResNet-18 and ResNet-34.
        head: ``fcn``, one 3x3 convolution, or ``pyramid``, DeepLab's.
        norm: After every convolution.
        activation: After every convolution.
        dropout: Probability, before the logits.
    """

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=21, ge=1)
    blocks: tuple[int, int, int, int] = _RESNET_50
    block: Block = "bottleneck"
    head: Literal["fcn", "pyramid"] = "fcn"
    norm: Norm = "batch"
    activation: Activation = "relu"
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the encoder."""
        return list_resnet_stages(self.width, self.blocks, 32, self.block)

    @property
    def path(self) -> tuple[Step, ...] | None:
        """None with the pyramid, which sees the mean over the image; otherwise through the deepest stage."""
        if self.head == "pyramid":
            return None
        return (
            *list_resnet_path(self.blocks, 32, self.block),
            Slide(3),
            Linear(4),
            Slide(3, 1, max(_DILATIONS)),
            Slide(3),
            Linear(8),
        )


class JointPyramidUpsampling(nn.Module):
    """Features of three grids as one on the finest of them.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Of the three, finest first.
        width: They are brought to; four times as many leave.
        norm: After every convolution.
        activation: After every convolution.
    """

    def __init__(
        self, spatial_dims: int, in_channels: list[int], width: int, *, norm: Norm, activation: Activation
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            Convolution(spatial_dims, channels, width, norm=norm, activation=activation) for channels in in_channels
        )
        total = len(in_channels) * width
        self.branches = nn.ModuleList(
            nn.Sequential(
                CONVOLUTION[spatial_dims](
                    total, total, 3, padding=dilation, dilation=dilation, groups=total, bias=False
                ),
                build_norm(norm, spatial_dims, total),
                CONVOLUTION[spatial_dims](total, width, 1, bias=norm == "none"),
                build_norm(norm, spatial_dims, width),
                build_activation(activation, width),
            )
            for dilation in _DILATIONS
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Finest first; ``(B, 4 width, *finest)``."""
        size = features[0].shape[2:]
        parts = [convolution(x) for convolution, x in zip(self.convolutions, features, strict=True)]
        joint = torch.cat([parts[0], *(resize(part, size) for part in parts[1:])], dim=1)
        return torch.cat([branch(joint) for branch in self.branches], dim=1)


class FastFCN(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: FastFCNConfig) -> None:
        super().__init__(config)
        dims, width, norm, activation = config.spatial_dims, config.width, config.norm, config.activation
        features = list_resnet_features(width, config.block)
        self.encoder = ResNetEncoder(
            dims,
            config.in_channels,
            width,
            blocks=config.blocks,
            block=config.block,
            norm=norm,
            activation=activation,
        )
        joint = 8 * width  # 512 in the paper
        self.upsampling = JointPyramidUpsampling(dims, features[2:], joint, norm=norm, activation=activation)
        self.head: nn.Module
        if config.head == "fcn":
            self.head = Convolution(dims, 4 * joint, joint, norm=norm, activation=activation)
        else:
            self.head = AtrousPyramid(
                dims,
                4 * joint,
                joint,
                rates=(12, 24, 36),
                has_image_mean=True,
                norm=norm,
                activation=activation,
            )
        self.classify = nn.Sequential(build_dropout(config.dropout), CONVOLUTION[dims](joint, config.out_channels, 1))
        self.apply(initialize_he)

    def _compute_logits(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        logits = self.classify(self.head(self.upsampling(features[2:])))
        return resize(logits, image.shape[2:])
