"""MedNeXt (Roy 2023, arXiv:2303.09975), from MONAI, 2D and 3D.

A U-Net of ConvNeXt blocks: a depth-wise convolution, then 1x1 convolutions that widen the channels and narrow them again,
beside a shortcut; going down and up are such blocks too. Sizes S, B, M and L as in the paper, kernels of 3, 5 or 7.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step, Transposed

_RATIOS: dict[str, tuple[int, ...]] = {
    "S": (2, 2, 2, 2),
    "B": (2, 3, 4, 4),
    "M": (2, 3, 4, 4),
    "L": (3, 4, 8, 8),
}
"""How many times wider a block is inside, per level."""
_BOTTLENECK_RATIO = {"S": 2, "B": 4, "M": 4, "L": 8}
_BLOCKS: dict[str, tuple[int, ...]] = {
    "S": (2, 2, 2, 2),
    "B": (2, 2, 2, 2),
    "M": (3, 4, 4, 4),
    "L": (3, 4, 8, 8),
}
_BOTTLENECK_BLOCKS = {"S": 2, "B": 2, "M": 4, "L": 8}


class MedNeXtConfig(NetworkConfig):
    """MedNeXt.

    Attributes:
        size: ``S``, ``B``, ``M`` or ``L``.
        kernel: Of the depth-wise convolutions.
    """

    spatial_dims: Literal[2, 3] = 3
    width: int = Field(default=32, ge=1)
    size: Literal["S", "B", "M", "L"] = "S"
    kernel: Literal[3, 5, 7] = 3

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Doubled from level to level."""
        blocks = (*_BLOCKS[self.size], _BOTTLENECK_BLOCKS[self.size])
        return tuple(
            Stage(features=self.width * 2**level, stride=1 if level == 0 else 2, convolutions=number)
            for level, number in enumerate(blocks)
        )

    @property
    def num_scales(self) -> int:
        """Answers of all levels and of the bottleneck, as the paper supervises them."""
        return len(_BLOCKS[self.size]) + 1

    @property
    def path(self) -> tuple[Step, ...]:
        """One convolution per block."""
        same = Slide(self.kernel)
        steps: list[Step] = []
        for number in _BLOCKS[self.size]:
            steps += [*[same] * number, Slide(self.kernel, 2, 1, self.kernel // 2)]
        steps += [same] * _BOTTLENECK_BLOCKS[self.size]
        for number in reversed(_BLOCKS[self.size]):
            # The transposed convolution's answer is moved by one voxel.
            steps += [Transposed(self.kernel, 2, self.kernel // 2 - 1), *[same] * number]
        return tuple(steps)


class MedNeXt(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: MedNeXtConfig) -> None:
        from monai.networks.nets.mednext import MedNeXt as MonaiMedNeXt

        super().__init__(config)
        size = config.size
        self.network: nn.Module = MonaiMedNeXt(
            spatial_dims=config.spatial_dims,
            init_filters=config.width,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            encoder_expansion_ratio=_RATIOS[size],
            decoder_expansion_ratio=_RATIOS[size][::-1],
            bottleneck_expansion_ratio=_BOTTLENECK_RATIO[size],
            kernel_size=config.kernel,
            deep_supervision=True,
            use_residual_connection=True,
            blocks_down=_BLOCKS[size],
            blocks_bottleneck=_BOTTLENECK_BLOCKS[size],
            blocks_up=_BLOCKS[size][::-1],
        )

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Logits at the full resolution, a half, a quarter, an eighth and a sixteenth; the first only outside training."""
        self.config.check_size(image.shape[2:])
        answers = self.network(image)
        return [answers] if isinstance(answers, Tensor) else list(answers)

    def _compute_logits(self, image: Tensor) -> Tensor:
        answers = self.network(image)
        logits: Tensor = answers if isinstance(answers, Tensor) else answers[0]
        return logits
