"""The convolutions of VGG-16 (Simonyan 2015, arXiv:1409.1556), which FCN, SegNet and DeconvNet begin with, 2D and 3D.

The paper's other networks have more or fewer of them per level: 1, 1, 2, 2, 2 in VGG-11, 2 everywhere in VGG-13, 2, 2, 4, 4, 4 in
VGG-19.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from medunet.networks.choices import Activation, Convolution, Norm
from medunet.networks.config import Stage
from medunet.networks.receptive_field import Slide, Step

_Number = Annotated[int, Field(ge=1)]
VGGConvolutions = tuple[_Number, _Number, _Number, _Number, _Number]

VGG_CONVOLUTIONS: VGGConvolutions = (2, 2, 3, 3, 3)
"""Per level of VGG-16; every level ends with max-pooling by 2."""
VGG_MULTIPLES = (1, 2, 4, 8, 8)
"""Width of a level over that of the first."""


def list_vgg_features(width: int) -> list[int]:
    """Channels of the five levels: 64, 128, 256, 512, 512 in the paper."""
    return [width * multiple for multiple in VGG_MULTIPLES]


def list_vgg_stages(width: int, convolutions: VGGConvolutions = VGG_CONVOLUTIONS) -> tuple[Stage, ...]:
    """The five levels; the grid after the last pooling is a sixth resolution, which the caller adds."""
    return tuple(
        Stage(features=features, stride=1 if level == 0 else 2, convolutions=number)
        for level, (features, number) in enumerate(zip(list_vgg_features(width), convolutions, strict=True))
    )


def list_vgg_path(convolutions: VGGConvolutions = VGG_CONVOLUTIONS) -> tuple[Step, ...]:
    """All convolutions and the five poolings."""
    return tuple(step for number in convolutions for step in (*[Slide(3)] * number, Slide(2, 2)))


def build_vgg_levels(
    spatial_dims: int,
    in_channels: int,
    width: int,
    *,
    norm: Norm,
    activation: Activation,
    bias: bool | None = None,
    convolutions: VGGConvolutions = VGG_CONVOLUTIONS,
) -> nn.ModuleList:
    """The convolutions of each level, without the poolings between them."""
    levels, before = nn.ModuleList(), in_channels
    for features, number in zip(list_vgg_features(width), convolutions, strict=True):
        levels.append(
            nn.Sequential(
                *(
                    Convolution(
                        spatial_dims,
                        before if position == 0 else features,
                        features,
                        norm=norm,
                        activation=activation,
                        bias=bias,
                    )
                    for position in range(number)
                )
            )
        )
        before = features
    return levels


def build_mirrored_levels(
    spatial_dims: int,
    width: int,
    last: int,
    *,
    norm: Norm,
    activation: Activation,
    bias: bool | None = None,
    convolutions: VGGConvolutions = VGG_CONVOLUTIONS,
) -> nn.ModuleList:
    """The levels of a decoder that mirrors VGG-16, deepest first: the last convolution of a level leads to the next width.

    Args:
        spatial_dims: 2 or 3.
        width: Of the finest level.
        last: Channels that leave the finest level.
        norm: After every convolution.
        activation: After every convolution.
        bias: As in `Convolution`.
        convolutions: Of each level, finest first.
    """
    features = list_vgg_features(width)
    levels = nn.ModuleList()
    for level in reversed(range(len(features))):
        number, after = convolutions[level], features[level - 1] if level else last
        levels.append(
            nn.Sequential(
                *(
                    Convolution(
                        spatial_dims,
                        features[level],
                        after if position == number - 1 else features[level],
                        norm=norm,
                        activation=activation,
                        bias=bias,
                    )
                    for position in range(number)
                )
            )
        )
    return levels
