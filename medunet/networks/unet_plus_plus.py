"""UNet++ (Zhou 2018, arXiv:1807.10165), from MONAI, 2D and 3D.

Between encoder and decoder lie nested rows of convolutions: every node sees all nodes before it on its level and the one
below, so that what is joined is alike. Four answers of full resolution, from the shallowest U-Net to the deepest, are
supervised (the deepest first and most here; all alike in the paper).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step, Transposed

_DEPTH = 4
_NORMS: dict[str, str | tuple[str, dict[str, object]]] = {
    "batch": "batch",
    "instance": ("instance", {"affine": True}),
}


class UNetPlusPlusConfig(NetworkConfig):
    """UNet++.

    Attributes:
        norm: After every convolution.
        dropout: Probability.
    """

    width_step: ClassVar[int] = 2

    width: int = Field(default=32, ge=2, multiple_of=2)
    norm: Literal["batch", "instance"] = "batch"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Doubled from level to level."""
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=2)
            for level in range(_DEPTH + 1)
        )

    @property
    def num_scales(self) -> int:
        """Four answers, all on the grid of the image."""
        return _DEPTH

    @property
    def path(self) -> tuple[Step, ...]:
        """Down and up along the outermost nodes."""
        row: tuple[Step, ...] = (Slide(3), Slide(3))
        up: tuple[Step, ...] = (Transposed(2, 2), *row)
        return (*row, *(Slide(2, 2), *row) * _DEPTH, *up * _DEPTH)


class UNetPlusPlus(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: UNetPlusPlusConfig) -> None:
        from monai.networks.nets import BasicUNetPlusPlus

        super().__init__(config)
        self.network: nn.Module = BasicUNetPlusPlus(
            spatial_dims=config.spatial_dims,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            features=[*(stage.features for stage in config.stages), config.width],
            deep_supervision=True,
            norm=_NORMS[config.norm],
            dropout=config.dropout,
        )

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Answers of the four nested U-Nets, the deepest first."""
        self.config.check_size(image.shape[2:])
        answers: list[Tensor] = self.network(image)
        return answers[::-1]

    def _compute_logits(self, image: Tensor) -> Tensor:
        answers: list[Tensor] = self.network(image)
        return answers[-1]
