"""Convolution, normalisation and activation as nnU-Net stacks them, in 2D and 3D."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE_POOL: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LEAK = 0.01


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What every block of convolutions is told.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Of the first convolution, one number per spatial axis.
        kernel: Of all convolutions, odd.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    stride: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def following(self) -> BlockShape:
        """The shape of what comes after: same width, no stride."""
        return replace(self, in_channels=self.out_channels, stride=(1,) * self.spatial_dims)


def build_normalized_convolution(shape: BlockShape) -> list[nn.Module]:
    """A convolution that keeps the grid but for its stride, and instance normalisation."""
    padding = tuple((size - 1) // 2 for size in shape.kernel)
    convolution = CONVOLUTION[shape.spatial_dims]
    return [
        # No bias: the normalisation that follows would subtract it.
        convolution(shape.in_channels, shape.out_channels, shape.kernel, shape.stride, padding, bias=False),
        _INSTANCE_NORM[shape.spatial_dims](shape.out_channels, eps=1e-5, affine=True),
    ]


class ConvolutionStage(nn.Sequential):
    """Convolutions in a row, each normalised and activated."""

    def __init__(self, shape: BlockShape, num_convolutions: int) -> None:
        layers: list[nn.Module] = []
        for part in [shape] + [shape.following] * (num_convolutions - 1):
            layers += [*build_normalized_convolution(part), nn.LeakyReLU(LEAK, inplace=True)]
        super().__init__(*layers)
