"""SegNet (Badrinarayanan 2017, arXiv:1511.00561), 2D and 3D.

The 13 convolutions of VGG-16 and their mirror image. No features are carried over, only where the maxima of every pooling
were: the decoder puts its values back there (max-unpooling) and fills the gaps by its convolutions.

```text
  1 7 | pool  7 @ upper right      -> ... ->      5 | unpool  0 5
  3 2 |                                             |         0 0
```
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION
from medunet.networks.choices import (
    Activation,
    IndexPool,
    IndexUnpool,
    Norm,
    Upsampling,
    build_upsampling,
    find_upsampling_step,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Repeat, Slide, Step
from medunet.networks.vgg import (
    VGG_CONVOLUTIONS,
    VGGConvolutions,
    build_mirrored_levels,
    build_vgg_levels,
    list_vgg_features,
    list_vgg_path,
    list_vgg_stages,
)


class SegNetConfig(NetworkConfig):
    """SegNet.

    Attributes:
        convolutions: Of the five levels; 13 in all, as in VGG-16.
        upsampling: ``unpool`` by the indices of the maxima as in the paper, or any other.
        norm: After every convolution but the last.
        activation: After every convolution but the last.
    """

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=12, ge=1)
    convolutions: VGGConvolutions = VGG_CONVOLUTIONS
    upsampling: Upsampling | Literal["unpool"] = "unpool"
    norm: Norm = "batch"
    activation: Activation = "relu"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """VGG's levels; the deepest grid has no convolution of its own."""
        levels = list_vgg_stages(self.width, self.convolutions)
        return (*levels, Stage(features=levels[-1].features, stride=2, convolutions=0))

    @property
    def min_deepest_voxels(self) -> int:
        """One: nothing is normalised on the deepest grid, which only pooling and unpooling see."""
        return 1

    @property
    def path(self) -> tuple[Step, ...]:
        """Down and up again."""
        step = Repeat(2) if self.upsampling == "unpool" else find_upsampling_step(self.upsampling)
        return (
            *list_vgg_path(self.convolutions),
            *(each for number in reversed(self.convolutions) for each in (step, *[Slide(3)] * number)),
        )


class SegNet(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: SegNetConfig) -> None:
        super().__init__(config)
        dims = config.spatial_dims
        self.encoder = build_vgg_levels(
            dims,
            config.in_channels,
            config.width,
            norm=config.norm,
            activation=config.activation,
            bias=True,
            convolutions=config.convolutions,
        )
        self.decoder = build_mirrored_levels(
            dims,
            config.width,
            config.width,
            norm=config.norm,
            activation=config.activation,
            bias=True,
            convolutions=config.convolutions,
        )
        # The last convolution gives logits.
        finest = nn.Sequential(*list(self.decoder[-1].children())[:-1])
        finest.append(CONVOLUTION[dims](config.width, config.out_channels, 3, padding=1))
        self.decoder[-1] = finest
        self.pool = IndexPool(dims)
        self.upsamplers = nn.ModuleList(
            IndexUnpool(dims)
            if config.upsampling == "unpool"
            else build_upsampling(config.upsampling, dims, features, features)
            for features in reversed(list_vgg_features(config.width))
        )
        self.apply(initialize_he)

    def _compute_logits(self, image: Tensor) -> Tensor:
        indices = []
        x = image
        for level in self.encoder:
            x, where = self.pool(level(x))
            indices.append(where)
        for level, upsampler in zip(self.decoder, self.upsamplers, strict=True):
            where = indices.pop()
            x = level(upsampler(x, where) if isinstance(upsampler, IndexUnpool) else upsampler(x))
        return x
