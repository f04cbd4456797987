"""What all U-Nets share: shape, decoder, skips and heads. A U-Net is this with an encoder of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medunet.networks.blocks import CONVOLUTION, LEAK, TRANSPOSED_CONVOLUTION, BlockShape, ConvolutionStage


class EncoderDecoder(nn.Module, ABC):
    """Encoder, decoder and one head per scale; subclasses say what a stage of the encoder is.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        out_channels: Output channels.
        features: Channels of each stage, finest first; at least two stages.
        strides: Stride of each stage, one number per spatial axis; the first stage has stride 1.
        kernels: Kernel of each stage, odd.
        encoder_blocks: Blocks of each encoder stage.
        decoder_convolutions: Convolutions of each decoder stage, finest first; one fewer than stages.
        num_scales: Scales with a head, finest first (deep supervision).

    Attributes:
        divisors: What each axis of an image must be a multiple of.

    Raises:
        ValueError: If the numbers of stages contradict each other.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        kernels: Sequence[tuple[int, ...]],
        encoder_blocks: Sequence[int],
        decoder_convolutions: Sequence[int],
        num_scales: int = 1,
    ) -> None:
        super().__init__()
        num_stages = len(features)
        if not (num_stages >= 2 and num_stages == len(strides) == len(kernels)):
            msg = f"A U-Net needs as many strides ({len(strides)}) and kernels ({len(kernels)}) as features ({num_stages}), at least 2."
            raise ValueError(msg)
        if len(encoder_blocks) != num_stages or len(decoder_convolutions) != num_stages - 1:
            msg = (
                f"{num_stages} stages need {num_stages} numbers of encoder blocks and {num_stages - 1} of decoder "
                f"convolutions; got {tuple(encoder_blocks)} and {tuple(decoder_convolutions)}."
            )
            raise ValueError(msg)
        if not 1 <= num_scales < num_stages:
            msg = f"num_scales is {num_scales}; {num_stages} stages have 1 to {num_stages - 1} decoder scales."
            raise ValueError(msg)
        self.divisors = tuple(math.prod(stride[axis] for stride in strides) for axis in range(spatial_dims))
        widths, one = [in_channels, *features], (1,) * spatial_dims
        self.encoder = nn.ModuleList(
            self._build_encoder_stage(
                stage,
                BlockShape(
                    spatial_dims=spatial_dims,
                    in_channels=widths[stage],
                    out_channels=widths[stage + 1],
                    stride=tuple(strides[stage]),
                    kernel=tuple(kernels[stage]),
                ),
                encoder_blocks[stage],
            )
            for stage in range(num_stages)
        )
        # Decoder modules are indexed by the stage whose resolution they restore.
        self.upsamplers = nn.ModuleList(
            TRANSPOSED_CONVOLUTION[spatial_dims](
                features[stage + 1], features[stage], strides[stage + 1], strides[stage + 1], bias=False
            )
            for stage in range(num_stages - 1)
        )
        self.decoder = nn.ModuleList(
            ConvolutionStage(
                BlockShape(
                    spatial_dims=spatial_dims,
                    in_channels=2 * features[stage],
                    out_channels=features[stage],
                    stride=one,
                    kernel=tuple(kernels[stage]),
                ),
                decoder_convolutions[stage],
            )
            for stage in range(num_stages - 1)
        )
        head = CONVOLUTION[spatial_dims]
        self.heads = nn.ModuleList(head(features[scale], out_channels, 1) for scale in range(num_scales))
        self.apply(self._initialize)

    @staticmethod
    @abstractmethod
    def _build_encoder_stage(stage: int, shape: BlockShape, num_blocks: int) -> nn.Module:
        """One resolution of the encoder, 0 being the finest; the stride belongs to its beginning."""

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        """He's weights (doi:10.1109/ICCV.2015.123) for convolutions, no offset."""
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=LEAK)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *spatial)`` for an image ``(B, in_channels, *spatial)``."""
        logits: Tensor = self.heads[0](self._decode(image)[0])
        return logits

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Logits at every scale that has a head, finest first."""
        return [head(features) for head, features in zip(self.heads, self._decode(image), strict=False)]

    def _check_size(self, size: Sequence[int]) -> None:
        """Refuse an image that the network cannot take; see `NetworkConfig.check_size`."""
        cells = [math.ceil(n / divisor) for n, divisor in zip(size, self.divisors, strict=True)]
        found, divisors = "x".join(map(str, size)), "x".join(map(str, self.divisors))
        if any(n % divisor for n, divisor in zip(size, self.divisors, strict=True)):
            rule = f"takes sizes that are multiples of {divisors}"
        elif tuple(size) == self.divisors:
            rule = f"normalises its coarsest grid, which needs 2 cells of {divisors} or more"
        else:
            return
        cells[-1] += math.prod(cells) == 1
        fitting = "x".join(str(cell * divisor) for cell, divisor in zip(cells, self.divisors, strict=True))
        msg = f"The network {rule}, got {found}; pad the image or use {fitting}, the next size that fits."
        raise ValueError(msg)

    def _decode(self, image: Tensor) -> list[Tensor]:
        """Decoder features of every scale, finest first."""
        self._check_size(image.shape[2:])
        skips = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        scales: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            x = torch.cat([self.upsamplers[level](x), skips[level]], dim=1)
            x = self.decoder[level](x)
            scales.insert(0, x)
        return scales
