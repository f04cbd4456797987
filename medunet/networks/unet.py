"""The U-Net in nnU-Net's plain shape, 2D and 3D.

Two convolutions per stage on both sides, each followed by instance normalisation and leaky ReLU; strided convolutions
go down, transposed ones up; skips are concatenated (Ronneberger 2015, doi:10.1007/978-3-319-24574-4_28; Isensee 2021,
doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class UNet(nn.Module):
    """Encoder, decoder and one head per scale.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        out_channels: Output channels.
        features: Channels of each stage, finest first; at least two stages.
        strides: Stride of each stage, one number per spatial axis; the first stage has stride 1.
        kernels: Kernel of each stage, odd.
        num_scales: Scales with a head, finest first (deep supervision).
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
        num_scales: int = 1,
    ) -> None:
        super().__init__()
        num_stages = len(features)
        if not (num_stages >= 2 and num_stages == len(strides) == len(kernels)):
            msg = f"A U-Net needs as many strides ({len(strides)}) and kernels ({len(kernels)}) as features ({num_stages}), at least 2."
            raise ValueError(msg)
        if not 1 <= num_scales < num_stages:
            msg = f"num_scales is {num_scales}; {num_stages} stages have 1 to {num_stages - 1} decoder scales."
            raise ValueError(msg)
        self.divisors = tuple(math.prod(stride[axis] for stride in strides) for axis in range(spatial_dims))
        widths = [in_channels, *features]
        self.encoder = nn.ModuleList(
            _Stage(spatial_dims, widths[stage], widths[stage + 1], strides[stage], kernels[stage])
            for stage in range(num_stages)
        )
        # Decoder modules are indexed by the stage whose resolution they restore.
        self.upsamplers = nn.ModuleList(
            _CONV_TRANSPOSE[spatial_dims](
                features[stage + 1], features[stage], strides[stage + 1], strides[stage + 1], bias=False
            )
            for stage in range(num_stages - 1)
        )
        one = (1,) * spatial_dims
        self.decoder = nn.ModuleList(
            _Stage(spatial_dims, 2 * features[stage], features[stage], one, kernels[stage])
            for stage in range(num_stages - 1)
        )
        self.heads = nn.ModuleList(_CONV[spatial_dims](features[scale], out_channels, 1) for scale in range(num_scales))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *spatial)`` for an image ``(B, in_channels, *spatial)``."""
        logits: Tensor = self.heads[0](self._decode(image)[0])
        return logits

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Logits at every scale that has a head, finest first."""
        return [head(features) for head, features in zip(self.heads, self._decode(image), strict=False)]

    def _decode(self, image: Tensor) -> list[Tensor]:
        """Decoder features of every scale, finest first."""
        if any(size % divisor for size, divisor in zip(image.shape[2:], self.divisors, strict=True)):
            msg = f"The network takes sizes that are multiples of {self.divisors}; got {tuple(image.shape[2:])}. Pad the image."
            raise ValueError(msg)
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


class _Stage(nn.Sequential):
    """Two convolutions; the first may be strided."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, stride: tuple[int, ...], kernel: tuple[int, ...]
    ) -> None:
        one = (1,) * len(stride)
        super().__init__(
            *_build_convolution(spatial_dims, in_channels, out_channels, stride, kernel),
            *_build_convolution(spatial_dims, out_channels, out_channels, one, kernel),
        )


def _build_convolution(
    spatial_dims: int, in_channels: int, out_channels: int, stride: tuple[int, ...], kernel: tuple[int, ...]
) -> list[nn.Module]:
    padding = tuple((size - 1) // 2 for size in kernel)
    return [
        # No bias: the normalisation that follows would subtract it.
        _CONV[spatial_dims](in_channels, out_channels, kernel, stride, padding, bias=False),
        _INSTANCE_NORM[spatial_dims](out_channels, eps=1e-5, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    ]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)  # He 2015, doi:10.1109/ICCV.2015.123
        if module.bias is not None:
            nn.init.zeros_(module.bias)
