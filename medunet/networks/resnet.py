"""Residual networks (He 2016, arXiv:1512.03385) as encoders, 2D and 3D; strides can become dilations.

DeepLab, FastFCN and Gated-SCNN begin with them. A stage that is not strided any more is dilated instead, so that its
kernels see as far as before on a finer grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from medunet.networks.choices import MAX_POOL, Activation, Convolution, Norm, build_activation
from medunet.networks.config import Stage
from medunet.networks.receptive_field import Slide, Step

Block = Literal["bottleneck", "basic"]

RESNET_101 = (3, 4, 23, 3)
"""Blocks of the four stages."""
EXPANSIONS: dict[Block, int] = {"bottleneck": 4, "basic": 1}
"""Channels that leave a block over those of its 3x3 convolution."""


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, beside a shortcut."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        out_channels = EXPANSIONS["bottleneck"] * width
        self.convolutions = nn.Sequential(
            Convolution(spatial_dims, in_channels, width, 1, norm=norm, activation=activation),
            Convolution(
                spatial_dims, width, width, 3, stride=stride, dilation=dilation, norm=norm, activation=activation
            ),
            Convolution(spatial_dims, width, out_channels, 1, norm=norm, activation=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = Convolution(
                spatial_dims, in_channels, out_channels, 1, stride=stride, norm=norm, activation=None
            )
        self.activation = build_activation(activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, *spatial)`` to ``(B, 4 width, *strided)``."""
        result: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return result


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the blocks of ResNet-18 and ResNet-34."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Convolution(
                spatial_dims, in_channels, width, 3, stride=stride, dilation=dilation, norm=norm, activation=activation
            ),
            Convolution(spatial_dims, width, width, 3, dilation=dilation, norm=norm, activation=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != width:
            self.shortcut = Convolution(spatial_dims, in_channels, width, 1, stride=stride, norm=norm, activation=None)
        self.activation = build_activation(activation, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, *spatial)`` to ``(B, width, *strided)``."""
        result: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return result


_BLOCKS: dict[Block, type[Bottleneck] | type[BasicBlock]] = {"bottleneck": Bottleneck, "basic": BasicBlock}


class ResNetEncoder(nn.Module):
    """Stem and four stages.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        width: Channels of the stem.
        blocks: Of each stage.
        output_stride: Of the last stage: 32, or 16 or 8 by dilation.
        block: What a stage is made of.
        norm: After every convolution.
        activation: After every convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        *,
        blocks: Sequence[int] = RESNET_101,
        output_stride: int = 32,
        block: Block = "bottleneck",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.stem = Convolution(spatial_dims, in_channels, width, 7, stride=2, norm=norm, activation=activation)
        self.pool = MAX_POOL[spatial_dims](3, 2, 1)
        self.stages = nn.ModuleList()
        before = width
        for number, (stride, dilation) in enumerate(list_strides(output_stride)):
            inner = width * 2**number
            rows: list[nn.Module] = []
            for position in range(blocks[number]):
                rows.append(
                    _BLOCKS[block](
                        spatial_dims,
                        before,
                        inner,
                        stride=stride if position == 0 else 1,
                        dilation=dilation,
                        norm=norm,
                        activation=activation,
                    )
                )
                before = EXPANSIONS[block] * inner
            self.stages.append(nn.Sequential(*rows))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The stem's features (stride 2), then those of the four stages (4, and as the output stride says)."""
        stem = self.stem(x)
        features = [stem]
        x = self.pool(stem)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def list_strides(output_stride: int) -> list[tuple[int, int]]:
    """Stride and dilation of each stage, the stem having stride 4 with its pooling.

    Example:
        >>> list_strides(16)
        [(1, 1), (2, 1), (2, 1), (1, 2)]
    """
    strides, reached, dilation = [(1, 1)], 4, 1
    for _ in range(3):
        if reached < output_stride:
            reached *= 2
            strides.append((2, dilation))
        else:
            dilation *= 2
            strides.append((1, dilation))
    return strides


def list_resnet_features(width: int, block: Block = "bottleneck") -> list[int]:
    """Channels of the stem and of the four stages: 64, 256, 512, 1024, 2048 in the paper."""
    return [width, *(EXPANSIONS[block] * width * 2**number for number in range(4))]


def list_resnet_stages(
    width: int, blocks: Sequence[int], output_stride: int, block: Block = "bottleneck"
) -> tuple[Stage, ...]:
    """The image, the stem and the stages that have a grid of their own; stages without one are counted to the one before."""
    features = list_resnet_features(width, block)
    stages = [
        Stage(features=features[0], stride=2, convolutions=1),
        Stage(features=features[1], stride=2, convolutions=blocks[0]),
    ]
    for number, (stride, _) in enumerate(list_strides(output_stride)[1:], start=1):
        if stride == 1:
            last = stages[-1]
            stages[-1] = Stage(
                features=features[number + 1], stride=last.stride, convolutions=last.convolutions + blocks[number]
            )
        else:
            stages.append(Stage(features=features[number + 1], stride=2, convolutions=blocks[number]))
    return tuple(stages)


def list_resnet_path(blocks: Sequence[int], output_stride: int, block: Block = "bottleneck") -> tuple[Step, ...]:
    """Stem, pooling and the 3x3 convolutions of all blocks."""
    steps: list[Step] = [Slide(7, 2), Slide(3, 2)]
    per_block = 1 if block == "bottleneck" else 2
    for number, (stride, dilation) in zip(blocks, list_strides(output_stride), strict=True):
        # A strided and dilated convolution does not occur: strides end before dilations begin.
        steps += [Slide(3, stride, dilation, dilation), *[Slide(3, 1, dilation)] * (per_block * number - 1)]
    return tuple(steps)
