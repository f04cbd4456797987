"""The residual encoder U-Net of nnU-Net Revisited (arXiv:2404.09556), 2D and 3D.

A deep encoder of residual blocks, a light decoder of one convolution per stage. Shortcuts are those of ResNet-D (He 2019,
arXiv:1812.01187): average pooling where the block is strided, a 1x1 convolution where the width changes.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from medunet.networks.blocks import AVERAGE_POOL, LEAK, BlockShape, ConvolutionStage, build_normalized_convolution
from medunet.networks.encoder_decoder import EncoderDecoder


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the activation comes after their sum."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        one = (1,) * shape.spatial_dims
        self.convolutions = nn.Sequential(
            *build_normalized_convolution(shape),
            nn.LeakyReLU(LEAK, inplace=True),
            *build_normalized_convolution(shape.following),
        )
        shortcut: list[nn.Module] = []
        if shape.stride != one:
            shortcut.append(AVERAGE_POOL[shape.spatial_dims](shape.stride, shape.stride))
        if shape.in_channels != shape.out_channels:
            shortcut += build_normalized_convolution(replace(shape, stride=one, kernel=one))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, *spatial)`` to ``(B, out_channels, *strided)``."""
        result: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return result


class ResidualUNet(EncoderDecoder):
    """A U-Net whose encoder stages are ``encoder_blocks`` residual blocks; the first begins with a plain convolution."""

    @staticmethod
    def _build_encoder_stage(stage: int, shape: BlockShape, num_blocks: int) -> nn.Module:
        stem: list[nn.Module] = []
        if stage == 0:
            stem.append(ConvolutionStage(shape, 1))
            shape = shape.following
        blocks = [ResidualBlock(part) for part in [shape] + [shape.following] * (num_blocks - 1)]
        return nn.Sequential(*stem, *blocks)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        EncoderDecoder._initialize(module)
        if isinstance(module, ResidualBlock):
            # A new block adds nothing to its shortcut, so that a deep encoder starts as a shallow one.
            nn.init.zeros_(module.convolutions[-1].get_parameter("weight"))
