"""SegResNet (Myronenko 2018, arXiv:1810.11654), from MONAI, 2D and 3D: the winner of BraTS 2018 without its autoencoder branch.

Residual blocks with group normalisation before the convolutions, many on the way down (1, 2, 2, 4) and one per level on the
way up, where linear interpolation and sums of skips keep it light.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Linear, Slide, Step


class SegResNetConfig(NetworkConfig):
    """SegResNet.

    Attributes:
        blocks_down: Of each level of the encoder.
        dropout: Probability, after the first convolution.
    """

    width_step: ClassVar[int] = 8

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=32, ge=8, multiple_of=8)
    blocks_down: tuple[int, ...] = Field(default=(1, 2, 2, 4), min_length=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Doubled from level to level."""
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=number)
            for level, number in enumerate(self.blocks_down)
        )

    @property
    def path(self) -> tuple[Step, ...]:
        """Down, and up by one block per level."""
        steps: list[Step] = [Slide(3)]
        for level, number in enumerate(self.blocks_down):
            steps += [*([Slide(3, 2)] if level else []), *[Slide(3)] * (2 * number)]
        up: tuple[Step, ...] = (Linear(2), Slide(3), Slide(3))
        return (*steps, *up * (len(self.blocks_down) - 1))


class SegResNet(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: SegResNetConfig) -> None:
        from monai.networks.nets import SegResNet as MonaiSegResNet

        super().__init__(config)
        self.network: nn.Module = MonaiSegResNet(
            spatial_dims=config.spatial_dims,
            init_filters=config.width,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            dropout_prob=config.dropout or None,
            blocks_down=config.blocks_down,
            blocks_up=(1,) * (len(config.blocks_down) - 1),
        )

    def _compute_logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits
