"""Layers by name, in 2D and 3D: what a paper chose, and what else one can put in its place."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medunet.networks.blocks import CONVOLUTION, LEAK, TRANSPOSED_CONVOLUTION
from medunet.networks.receptive_field import Linear, Repeat, Step, Transposed

Norm = Literal["none", "batch", "instance", "group"]
Activation = Literal["relu", "leaky-relu", "prelu", "elu", "gelu"]
Upsampling = Literal["transposed", "linear", "nearest"]

MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
_MAX_GROUPS = 8
_LINEAR = {2: "bilinear", 3: "trilinear"}


def build_norm(name: Norm, spatial_dims: int, channels: int) -> nn.Module:
    """A normalisation with scale and shift; ``group`` has the most groups up to 8 that divide the channels."""
    if name == "batch":
        return _BATCH_NORM[spatial_dims](channels)
    if name == "instance":
        return _INSTANCE_NORM[spatial_dims](channels, affine=True)
    if name == "group":
        return nn.GroupNorm(math.gcd(_MAX_GROUPS, channels), channels)
    return nn.Identity()


def build_activation(name: Activation, channels: int = 1) -> nn.Module:
    """An activation; ``prelu`` learns one slope per channel."""
    if name == "prelu":
        return nn.PReLU(channels)
    if name == "leaky-relu":
        return nn.LeakyReLU(LEAK, inplace=True)
    if name == "elu":
        return nn.ELU(inplace=True)
    return nn.GELU() if name == "gelu" else nn.ReLU(inplace=True)


def build_dropout(probability: float, spatial_dims: int | None = None) -> nn.Module:
    """Dropout of single values, or of whole channels where ``spatial_dims`` is given."""
    if probability == 0:
        return nn.Identity()
    return nn.Dropout(probability) if spatial_dims is None else _DROPOUT[spatial_dims](probability)


class Convolution(nn.Sequential):
    """Convolution, normalisation and activation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Edge.
        stride: Of the output.
        dilation: Between the elements of the kernel.
        padding: None keeps the grid but for the stride.
        norm: Of the output.
        activation: None for none.
        bias: None for a bias where no normalisation follows, which would subtract it.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: int | None = None,
        norm: Norm = "batch",
        activation: Activation | None = "relu",
        bias: bool | None = None,
    ) -> None:
        padding = dilation * (kernel - 1) // 2 if padding is None else padding
        has_bias = norm == "none" if bias is None else bias
        convolution = CONVOLUTION[spatial_dims]
        layers: list[nn.Module] = [
            convolution(in_channels, out_channels, kernel, stride, padding, dilation, bias=has_bias)
        ]
        if norm != "none":
            layers.append(build_norm(norm, spatial_dims, out_channels))
        if activation is not None:
            layers.append(build_activation(activation, out_channels))
        super().__init__(*layers)


class Interpolate(nn.Module):
    """Grid finer by a whole factor, ``linear`` between voxel centres or ``nearest``."""

    def __init__(self, spatial_dims: int, factor: int, mode: Literal["linear", "nearest"] = "linear") -> None:
        super().__init__()
        self.factor = factor
        self.mode = _LINEAR[spatial_dims] if mode == "linear" else "nearest"

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *finer)``."""
        size = [n * self.factor for n in x.shape[2:]]
        return resize(x, size, self.mode)


def resize(x: Tensor, size: list[int] | torch.Size, mode: str | None = None) -> Tensor:
    """Interpolate to a size, linearly unless a mode of torch is given."""
    mode = mode or _LINEAR[x.dim() - 2]
    if mode == "nearest":
        return F.interpolate(x, size=list(size), mode=mode)
    return F.interpolate(x, size=list(size), mode=mode, align_corners=False)


def build_upsampling(
    name: Upsampling, spatial_dims: int, in_channels: int, out_channels: int, *, bias: bool = True
) -> nn.Module:
    """Twice the grid, of another width: a transposed convolution as large as its stride, or a 1x1 convolution and interpolation."""
    if name == "transposed":
        return TRANSPOSED_CONVOLUTION[spatial_dims](in_channels, out_channels, 2, 2, bias=bias)
    return nn.Sequential(
        CONVOLUTION[spatial_dims](in_channels, out_channels, 1, bias=bias), Interpolate(spatial_dims, 2, name)
    )


def find_upsampling_step(name: Upsampling) -> Step:
    """`build_upsampling`, as a step of a path."""
    if name == "transposed":
        return Transposed(2, 2)
    return Linear(2) if name == "linear" else Repeat(2)


class IndexPool(nn.Module):
    """Max-pooling by 2 that remembers where each maximum was."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maxima ``(B, C, *halved)`` and their indices."""
        pool = F.max_pool2d if self.spatial_dims == 2 else F.max_pool3d
        pooled, indices = pool(x, 2, 2, return_indices=True)
        return pooled, indices


class IndexUnpool(nn.Module):
    """The way back: every value goes where the maximum was, everything else is 0."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """``(B, C, *halved)`` to ``(B, C, *spatial)``.

        Written as a scatter, because torch's unpooling has no gradient in half precision and cannot be exported.
        """
        size = [2 * n for n in x.shape[2:]]
        empty = x.new_zeros((*x.shape[:2], math.prod(size)))
        spread = empty.scatter(2, indices.flatten(2), x.flatten(2))
        return spread.reshape(*x.shape[:2], *size)


def initialize_he(module: nn.Module) -> None:
    """He's normal weights (doi:10.1109/ICCV.2015.123) for convolutions, no offset; for ``module.apply``."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
