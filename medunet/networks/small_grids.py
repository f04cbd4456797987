"""3D convolutions in bfloat16 on the CPU, where the grid is smaller than the kernel.

There PyTorch 2.13 (oneDNN) gives wrong gradients of the weights: elements that it never wrote, whatever was in memory before,
now and then NaN. It was seen for kernels of 3, 5 and 7 whose grid is shorter than the kernel along some axis, and neither
in 2D, in float32, with dilation, nor on larger grids. Such convolutions are tiny, so they are computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallGridConv3d(nn.Conv3d):
    """A convolution that leaves bfloat16 on the CPU where the grid is smaller than the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, I, J, K)`` to ``(B, out_channels, *strided)``."""
        is_small = any(size < kernel for size, kernel in zip(input.shape[2:], self.kernel_size, strict=True))
        if not is_small or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def protect_small_grids(network: nn.Module) -> None:
    """Make every plain 3D convolution of a network one that leaves bfloat16 where it must; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = SmallGridConv3d
