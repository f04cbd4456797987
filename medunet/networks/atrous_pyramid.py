"""The atrous spatial pyramid (Chen 2017, arXiv:1706.05587): one grid seen with kernels of several dilations at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medunet.networks.choices import Activation, Convolution, Norm, build_dropout

_POOL: dict[int, type[nn.Module]] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class AtrousPyramid(nn.Module):
    """A 1x1 convolution, dilated 3x3 ones, and optionally the mean over the image, side by side, then mixed.

    The branch of the mean has no normalisation: it has one voxel, of which, in a batch of one, nothing would be left.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        out_channels: Of each branch, and of the mix.
        rates: Dilations.
        has_image_mean: Whether the mean over the image is a branch.
        norm: After every other convolution.
        activation: After every convolution.
        dropout: Probability, of the mix.
        extra_channels: Of features that join the mix as they are.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        rates: Sequence[int],
        has_image_mean: bool,
        norm: Norm,
        activation: Activation,
        dropout: float = 0.0,
        extra_channels: int = 0,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [Convolution(spatial_dims, in_channels, out_channels, 1, norm=norm, activation=activation)]
        )
        for rate in rates:
            self.branches.append(
                Convolution(spatial_dims, in_channels, out_channels, 3, dilation=rate, norm=norm, activation=activation)
            )
        self.image_mean: nn.Module | None = None
        if has_image_mean:
            self.image_mean = nn.Sequential(
                _POOL[spatial_dims](1),
                Convolution(spatial_dims, in_channels, out_channels, 1, norm="none", activation=activation),
            )
        num_branches = len(self.branches) + has_image_mean
        self.mix = nn.Sequential(
            Convolution(
                spatial_dims,
                num_branches * out_channels + extra_channels,
                out_channels,
                1,
                norm=norm,
                activation=activation,
            ),
            build_dropout(dropout),
        )

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """``(B, in_channels, *spatial)`` to ``(B, out_channels, *spatial)``."""
        parts = [branch(x) for branch in self.branches]
        if self.image_mean is not None:
            parts.append(self.image_mean(x).expand_as(parts[0]))
        if extra is not None:
            parts.append(extra)
        mixed: Tensor = self.mix(torch.cat(parts, dim=1))
        return mixed
