"""The 3D U-Net of 2016 (Cicek 2016, arXiv:1606.06650).

Three poolings; every level doubles its channels in its second convolution, before the pooling, so that no bottleneck
arises; batch normalisation before every ReLU; up-convolutions 2x2x2 that keep the channels. The paper's valid convolutions
answer 44 x 44 x 28 voxels from 132 x 132 x 116; ``padding="valid"`` has them, with mirrored borders around. For training
on patches ``padding="same"`` is meant: a margin of 44 voxels around a patch of 64 is thirteen times the patch. The same in
2D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION
from medunet.networks.borders import answer_whole_image, crop_center, find_valid_surroundings
from medunet.networks.choices import (
    MAX_POOL,
    Activation,
    Convolution,
    Norm,
    Upsampling,
    build_upsampling,
    find_upsampling_step,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step


class UNet3D2016Config(NetworkConfig):
    """The 3D U-Net of 2016; ``width`` is that of the very first convolution.

    Attributes:
        num_poolings: Levels below the first.
        padding: ``valid`` as in the paper, or ``same``.
        upsampling: Of the synthesis path.
        norm: Before every activation.
        activation: After every convolution.
    """

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=32, ge=1)
    num_poolings: int = Field(default=3, ge=1)
    padding: Literal["valid", "same"] = "valid"
    upsampling: Upsampling = "transposed"
    norm: Norm = "batch"
    activation: Activation = "relu"

    @classmethod
    def for_patch(cls, patch_size: Sequence[int], **fields: Any) -> Self:
        """Padded convolutions, since margins of 44 voxels would cost more than the patch."""
        return super().for_patch(patch_size, **{"padding": "same"} | fields)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What leaves each level of the analysis path."""
        return tuple(
            Stage(features=2 * self.width * 2**level, stride=1 if level == 0 else 2, convolutions=2)
            for level in range(self.num_poolings + 1)
        )

    @property
    def divisor(self) -> int:
        """1 for valid convolutions, whose borders are mirrored as far as needed."""
        return 1 if self.padding == "valid" else 2**self.num_poolings

    @property
    def min_deepest_voxels(self) -> int:
        """One, where nothing is normalised."""
        return 1 if self.norm == "none" or self.padding == "valid" else 2

    def find_surroundings(self, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """What valid convolutions lose at the borders, and what is missing to the next size that they answer for."""
        if self.padding == "same":
            return super().find_surroundings(size)
        return find_valid_surroundings(size, self.num_poolings)

    @property
    def path(self) -> tuple[Step, ...]:
        """Down, through the deepest level, and up."""
        row: tuple[Step, ...] = (Slide(3), Slide(3))
        down = (*row, Slide(2, 2)) * self.num_poolings
        return (*down, *row, *((find_upsampling_step(self.upsampling), *row) * self.num_poolings))


class UNet3D2016(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: UNet3D2016Config) -> None:
        super().__init__(config)
        self.settings = config
        dims, features = config.spatial_dims, [stage.features for stage in config.stages]
        self.pool = MAX_POOL[dims](2)
        self.analysis = nn.ModuleList(
            _build_row(config, before, after // 2, after)
            for before, after in zip([config.in_channels, *features[:-1]], features, strict=True)
        )
        # The synthesis path is indexed by the level that it restores.
        self.upsamplers = nn.ModuleList(
            build_upsampling(config.upsampling, dims, features[level + 1], features[level + 1], bias=False)
            for level in range(config.num_poolings)
        )
        self.synthesis = nn.ModuleList(
            _build_row(config, features[level] + features[level + 1], features[level], features[level])
            for level in range(config.num_poolings)
        )
        self.head = CONVOLUTION[dims](features[0], config.out_channels, 1)
        self.apply(initialize_he)

    def compute_inside(self, image: Tensor) -> Tensor:
        """Logits of the inside of an image: of 44 x 44 x 28 voxels for 132 x 132 x 116; of all with ``padding="same"``."""
        skips = []
        x = image
        for level, row in enumerate(self.analysis):
            x = row(self.pool(x) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.synthesis))):
            x = self.upsamplers[level](x)
            x = self.synthesis[level](torch.cat([crop_center(skips[level], x.shape[2:]), x], dim=1))
        logits: Tensor = self.head(x)
        return logits

    def _compute_logits(self, image: Tensor) -> Tensor:
        if self.settings.padding == "same":
            return self.compute_inside(image)
        return answer_whole_image(self.compute_inside, image, self.settings.num_poolings)


def _build_row(config: UNet3D2016Config, before: int, middle: int, after: int) -> nn.Sequential:
    padding = 0 if config.padding == "valid" else None
    return nn.Sequential(
        *(
            Convolution(
                config.spatial_dims,
                wide,
                width,
                padding=padding,
                norm=config.norm,
                activation=config.activation,
                bias=True,
            )
            for wide, width in ((before, middle), (middle, after))
        )
    )
