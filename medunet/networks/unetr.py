"""UNETR (Hatamizadeh 2022, arXiv:2103.10504), from MONAI, 2D and 3D.

A vision transformer sees the patch as cubes of 16 voxels, all of which look at all others; a convolutional decoder gathers
its third, sixth, ninth and last layer. Where a cube lies is learnt as one vector per place, so the network belongs to one
size of patch, which its config names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork

_TOKEN = 16
"""Edge of a cube."""
_HIDDEN = 48
"""Numbers per cube over the width: 768 over 16."""


class UNETRConfig(NetworkConfig):
    """UNETR.

    Attributes:
        image_size: The one size of patch that it takes, multiples of 16.
        norm: In the decoder.
        dropout: Probability, in the transformer.
    """

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=16, ge=1)
    image_size: tuple[int, ...] = (96, 96, 96)
    norm: Literal["batch", "instance"] = "instance"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.image_size) != self.spatial_dims or any(n < 1 or n % _TOKEN for n in self.image_size):
            msg = f"image_size is {self.image_size}; expected {self.spatial_dims} multiples of {_TOKEN}"
            raise ValueError(msg)
        return self

    @classmethod
    def for_patch(cls, patch_size: Sequence[int], **fields: Any) -> Self:
        """For this patch, rounded up to multiples of 16."""
        rounded = tuple(math.ceil(n / _TOKEN) * _TOKEN for n in patch_size)
        return super().for_patch(patch_size, **{"image_size": rounded} | fields)

    @property
    def hidden(self) -> int:
        """Numbers per cube."""
        return _HIDDEN * self.width

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The decoder's levels and the transformer's grid."""
        levels = [
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=2) for level in range(4)
        ]
        return (*levels, Stage(features=self.hidden, stride=2, convolutions=12))

    @property
    def path(self) -> None:
        """Attention sees the whole patch."""
        return

    @property
    def min_deepest_voxels(self) -> int:
        """The transformer normalises each cube by itself."""
        return 1

    def find_next_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The one size that fits."""
        return self.image_size

    def check_size(self, size: Sequence[int]) -> None:
        """Refuse another size.

        Raises:
            ValueError: If it is not the one of the config.
        """
        if tuple(size) != self.image_size:
            found, wanted = ("x".join(map(str, each)) for each in (size, self.image_size))
            msg = f"This UNETR takes patches of {wanted} only, where each place has a vector of its own, got {found}; use {wanted}."
            raise ValueError(msg)


class UNETR(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: UNETRConfig) -> None:
        from monai.networks import nets

        super().__init__(config)
        self.network: nn.Module = nets.UNETR(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            img_size=config.image_size,
            feature_size=config.width,
            hidden_size=config.hidden,
            mlp_dim=4 * config.hidden,
            norm_name=config.norm,
            dropout_rate=config.dropout,
            spatial_dims=config.spatial_dims,
        )
        for module in self.network.modules():
            # MONAI's blocks have a normalisation for an attention that UNETR has not; unused weights would stop DDP.
            if hasattr(module, "norm_cross_attn"):
                module.norm_cross_attn = nn.Identity()

    def _compute_logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits
