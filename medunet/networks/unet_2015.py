"""The U-Net of 2015, 2D, with valid convolutions (Ronneberger 2015, arXiv:1505.04597), and its general form.

Exactly the paper's: two valid 3x3 convolutions and ReLU per level, max-pooling by 2, 64 to 1024 channels, up-convolutions
2x2 that halve the channels, skips cropped and copied, dropout at the end of the contracting path, He's weights. Patches of
388 x 388 are answered from 572 x 572 voxels.

Behind the interface of all networks, patches in and logits of the same grid out, the borders of a patch are mirrored. So it is in
training; in a scan `medunet.inference.surroundings` shows every tile what truly lies around it, and only the scan's own borders
are mirrored, which is the paper's overlap-tile strategy. In 3D the margin of 92 voxels would cost more than the patch, so 3D is
the general form with
``padding="same"``, as one can have in 2D too.
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
    build_dropout,
    build_upsampling,
    find_upsampling_step,
    initialize_he,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step


class UNet2015Config(NetworkConfig):
    """The U-Net of 2015.

    Attributes:
        num_poolings: Levels below the first.
        padding: ``valid`` as in the paper, or ``same``.
        upsampling: Of the expansive path.
        norm: After every convolution.
        activation: After every convolution.
        dropout: Probability, after the two deepest levels.
    """

    num_poolings: int = Field(default=4, ge=1)
    padding: Literal["valid", "same"] = "valid"
    upsampling: Upsampling = "transposed"
    norm: Norm = "none"
    activation: Activation = "relu"
    dropout: float = Field(default=0.5, ge=0, lt=1)

    @classmethod
    def for_patch(cls, patch_size: Sequence[int], **fields: Any) -> Self:
        """Valid convolutions for slices, padded ones for volumes."""
        return super().for_patch(patch_size, **{"padding": "valid" if len(patch_size) == 2 else "same"} | fields)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Doubled from level to level."""
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=2)
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


class UNet2015(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: UNet2015Config) -> None:
        super().__init__(config)
        self.settings = config
        dims, features = config.spatial_dims, [stage.features for stage in config.stages]
        self.pool = MAX_POOL[dims](2)
        self.contracting = nn.ModuleList(
            _build_row(config, before, after)
            for before, after in zip([config.in_channels, *features[:-1]], features, strict=True)
        )
        self.dropout = build_dropout(config.dropout)
        # The expansive path is indexed by the level that it restores.
        self.upsamplers = nn.ModuleList(
            build_upsampling(config.upsampling, dims, features[level + 1], features[level])
            for level in range(config.num_poolings)
        )
        self.expansive = nn.ModuleList(
            _build_row(config, 2 * features[level], features[level]) for level in range(config.num_poolings)
        )
        self.head = CONVOLUTION[dims](features[0], config.out_channels, 1)
        self.apply(initialize_he)

    def compute_inside(self, image: Tensor) -> Tensor:
        """Logits of the inside of an image: of 388 x 388 voxels for 572 x 572; of all with ``padding="same"``."""
        skips = []
        x = image
        for level, row in enumerate(self.contracting):
            x = row(self.pool(x) if level else x)
            if level >= len(self.contracting) - 2:
                x = self.dropout(x)
            skips.append(x)
        for level in reversed(range(len(self.expansive))):
            x = self.upsamplers[level](x)
            x = self.expansive[level](torch.cat([crop_center(skips[level], x.shape[2:]), x], dim=1))
        logits: Tensor = self.head(x)
        return logits

    def _compute_logits(self, image: Tensor) -> Tensor:
        if self.settings.padding == "same":
            return self.compute_inside(image)
        return answer_whole_image(self.compute_inside, image, self.settings.num_poolings)


def _build_row(config: UNet2015Config, before: int, after: int) -> nn.Sequential:
    padding = 0 if config.padding == "valid" else None
    return nn.Sequential(
        *(
            Convolution(
                config.spatial_dims, width, after, padding=padding, norm=config.norm, activation=config.activation
            )
            for width in (before, after)
        )
    )
