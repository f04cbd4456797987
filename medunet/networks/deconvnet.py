"""DeconvNet (Noh 2015, arXiv:1505.04366): VGG-16, fully connected layers, and their mirror image of deconvolutions, 2D and 3D.

As in SegNet values go back to where the maxima were, but between the two halves lie the fully connected layers, 7x7 without
padding in the paper: images of 224 x 224 pass through a single voxel. Smaller patches need ``padding="same"``, which keeps
the 7x7 grid; the weights are the same. A deconvolution of stride 1 is a convolution with its kernel turned round; between
layers that learn their kernels there is no difference, and convolutions are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION, TRANSPOSED_CONVOLUTION
from medunet.networks.choices import (
    Activation,
    Convolution,
    IndexPool,
    IndexUnpool,
    Norm,
    Upsampling,
    build_activation,
    build_norm,
    build_upsampling,
    find_upsampling_step,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Repeat, Slide, Step, Transposed
from medunet.networks.vgg import (
    VGG_CONVOLUTIONS,
    VGGConvolutions,
    build_mirrored_levels,
    build_vgg_levels,
    list_vgg_features,
    list_vgg_path,
    list_vgg_stages,
)

_CONNECTED_KERNEL = 7
_FULLY_CONNECTED = 64
"""Channels of the fully connected layers over the width: 4096 over 64."""


class DeconvNetConfig(NetworkConfig):
    """DeconvNet.

    Attributes:
        convolutions: Of the five levels; 13 in all, as in VGG-16.
        padding: Of the fully connected layers: ``valid`` as in the paper, for patches from 224 on, or ``same``.
        upsampling: ``unpool`` by the indices of the maxima as in the paper, or any other.
        norm: After every convolution.
        activation: After every convolution.
    """

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=21, ge=1)
    convolutions: VGGConvolutions = VGG_CONVOLUTIONS
    padding: Literal["valid", "same"] = "valid"
    upsampling: Upsampling | Literal["unpool"] = "unpool"
    norm: Norm = "batch"
    activation: Activation = "relu"

    @classmethod
    def for_patch(cls, patch_size: Sequence[int], **fields: Any) -> Self:
        """The paper's fully connected layers, padded where the patch is too small for them."""
        is_large = min(patch_size) >= 32 * _CONNECTED_KERNEL
        return super().for_patch(patch_size, **{"padding": "valid" if is_large else "same"} | fields)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """VGG's levels and the fully connected layers."""
        deepest = Stage(features=_FULLY_CONNECTED * self.width, stride=2, convolutions=2)
        return (*list_vgg_stages(self.width, self.convolutions), deepest)

    @property
    def path(self) -> tuple[Step, ...]:
        """Down, through the fully connected layers, and up."""
        padding = 0 if self.padding == "valid" else 3
        step = Repeat(2) if self.upsampling == "unpool" else find_upsampling_step(self.upsampling)
        return (
            *list_vgg_path(self.convolutions),
            Slide(_CONNECTED_KERNEL, padding=padding),
            Transposed(_CONNECTED_KERNEL, 1, padding),
            *(each for number in reversed(self.convolutions) for each in (step, *[Slide(3)] * number)),
        )

    @property
    def min_edge(self) -> int:
        """224 without padding: 7 cells of the fully connected layer."""
        return 32 * _CONNECTED_KERNEL if self.padding == "valid" else 1


class DeconvNet(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: DeconvNetConfig) -> None:
        super().__init__(config)
        dims, width = config.spatial_dims, config.width
        features, connected = list_vgg_features(width), _FULLY_CONNECTED * width
        padding = 0 if config.padding == "valid" else _CONNECTED_KERNEL // 2
        self.pool = IndexPool(dims)
        self.encoder = build_vgg_levels(
            dims,
            config.in_channels,
            width,
            norm=config.norm,
            activation=config.activation,
            bias=True,
            convolutions=config.convolutions,
        )
        norm, activation = config.norm, config.activation
        self.connected = nn.Sequential(
            Convolution(
                dims,
                features[-1],
                connected,
                _CONNECTED_KERNEL,
                padding=padding,
                norm=norm,
                activation=activation,
                bias=True,
            ),
            Convolution(dims, connected, connected, 1, norm=norm, activation=activation, bias=True),
            TRANSPOSED_CONVOLUTION[dims](connected, features[-1], _CONNECTED_KERNEL, 1, padding),
            build_norm(norm, dims, features[-1]),
            build_activation(activation, features[-1]),
        )
        self.decoder = build_mirrored_levels(
            dims, width, width, norm=norm, activation=activation, bias=True, convolutions=config.convolutions
        )
        self.upsamplers = nn.ModuleList(
            IndexUnpool(dims)
            if config.upsampling == "unpool"
            else build_upsampling(config.upsampling, dims, channels, channels)
            for channels in reversed(features)
        )
        self.head = CONVOLUTION[dims](width, config.out_channels, 1)
        self.apply(initialize_he)

    def _compute_logits(self, image: Tensor) -> Tensor:
        indices = []
        x = image
        for level in self.encoder:
            x, where = self.pool(level(x))
            indices.append(where)
        x = self.connected(x)
        for level, upsampler in zip(self.decoder, self.upsamplers, strict=True):
            where = indices.pop()
            x = level(upsampler(x, where) if isinstance(upsampler, IndexUnpool) else upsampler(x))
        logits: Tensor = self.head(x)
        return logits
