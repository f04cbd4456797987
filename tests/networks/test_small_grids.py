"""Gradients in bfloat16 on grids smaller than the kernel are those of float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medunet.networks.small_grids import SmallGridConv3d, protect_small_grids


def compute_gradient(layer: nn.Module, image: torch.Tensor, *, is_low: bool) -> torch.Tensor:
    layer.zero_grad()
    litter = torch.full((500_000,), 1e30)  # what uninitialised memory would show
    del litter
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_low):
        answer = layer(image)
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0))
    (answer.float() * weights).sum().backward()
    gradient = layer.get_parameter("weight").grad
    assert gradient is not None
    return gradient.clone()


@pytest.mark.parametrize(
    ("kernel", "size"), [(3, (2, 4, 4)), (5, (4, 4, 1)), (5, (8, 1, 1)), (7, (6, 4, 4)), (3, (4, 4, 4))]
)
def test_gradients_are_those_of_float32(kernel: int, size: tuple[int, int, int]) -> None:
    layer = nn.Sequential(nn.Conv3d(32, 32, kernel, padding=kernel // 2))
    protect_small_grids(layer)
    image = torch.randn((2, 32, *size), generator=torch.Generator().manual_seed(1))
    image = image.contiguous(memory_format=torch.channels_last_3d)
    low, full = (compute_gradient(layer[0], image, is_low=is_low) for is_low in (True, False))
    assert (low - full).abs().max() < 0.02 * full.abs().max()


def test_only_small_grids_leave_bfloat16() -> None:
    layer = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1))
    protect_small_grids(layer)
    assert type(layer[0]) is SmallGridConv3d
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.zeros(1, 2, 3, 3, 3)).dtype == torch.bfloat16
        assert layer(torch.zeros(1, 2, 3, 3, 2)).dtype == torch.float32
    assert type(copy.deepcopy(layer)[0]) is SmallGridConv3d
    other = nn.Conv3d(2, 2, 3, padding=1)
    assert other.state_dict().keys() == layer[0].state_dict().keys()
