"""Swin UNETR (Hatamizadeh 2022, arXiv:2201.01266), from MONAI, 2D and 3D.

A transformer whose attention stays within windows of 7 voxels, shifted by half a window from layer to layer, on five grids
that halve from one to the next; a residual convolutional decoder joins them as in a U-Net. On the coarsest grid, 1/32, a
window covers patches of up to 224 voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork


class SwinUNETRConfig(NetworkConfig):
    """Swin UNETR.

    Attributes:
        norm: In the decoder.
        dropout: Probability, in the transformer.
    """

    width_step: ClassVar[int] = 12

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=48, ge=12, multiple_of=12)
    norm: Literal["batch", "instance"] = "instance"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The grid of the image, and the transformer's five."""
        widths = [self.width, *(self.width * 2**level for level in range(5))]
        return tuple(
            Stage(features=features, stride=1 if level == 0 else 2, convolutions=2)
            for level, features in enumerate(widths)
        )

    @property
    def path(self) -> None:
        """On the coarsest grid a window covers the patch."""
        return


class SwinUNETR(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: SwinUNETRConfig) -> None:
        from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

        super().__init__(config)
        with _NumbersOnTheCpu():
            self.network: nn.Module = MonaiSwinUNETR(
                in_channels=config.in_channels,
                out_channels=config.out_channels,
                feature_size=config.width,
                norm_name=config.norm,
                drop_rate=config.dropout,
                spatial_dims=config.spatial_dims,
            )

    def _compute_logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits


class _NumbersOnTheCpu(TorchFunctionMode):
    """MONAI reads dropout rates out of a tensor while it builds, which a network without memory (``meta``) cannot do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.linspace:
            return func(*args, **(kwargs or {}) | {"device": "cpu"})
        return func(*args, **(kwargs or {}))
