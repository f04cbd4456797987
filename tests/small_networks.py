"""Every network of the catalogue so small that it answers in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medunet.networks import ARCHITECTURES, NetworkConfig, SegmentationNetwork

OPTIONS: dict[str, dict[str, Any]] = {
    "pixel-classifier": {"width": 4, "kernels": (4, 4), "connected": 2.0},
    "fcn-32s": {"width": 1},
    "fcn-16s": {"width": 1},
    "fcn-8s": {"width": 1},
    "unet-2015": {"width": 4, "num_poolings": 2},
    "deconvnet": {"width": 1},
    "segnet": {"width": 2},
    "unet3d-2016": {"width": 4, "num_poolings": 2},
    "vnet": {"width": 2},
    "deeplab-v3-plus": {"width": 4, "blocks": (1, 1, 1, 1)},
    "attention-unet": {"width": 4, "num_levels": 3},
    "unet-plus-plus": {"width": 2},
    "segresnet": {"width": 8, "blocks_down": (1, 1, 1)},
    "fastfcn": {"width": 2, "blocks": (1, 1, 1, 1)},
    "gated-scnn": {"width": 4, "blocks": (1, 1, 1, 1)},
    "course-unet": {"width": 4, "num_levels": 3},
    "unetr": {"width": 1},
    "swin-unetr": {"width": 12},
    "mednext": {"width": 4},
}
NAMES = [name for name, architecture in ARCHITECTURES.items() if not architecture.is_planned]
SIZES: dict[int, tuple[int, ...]] = {2: (17, 40), 3: (9, 17, 10)}
"""Odd, and no network's favourite."""


def build_config(
    name: str,
    dims: int,
    *,
    in_channels: int = 2,
    out_channels: int = 3,
    size: tuple[int, ...] | None = None,
    **more: Any,
) -> NetworkConfig:
    return ARCHITECTURES[name].build_config(size or SIZES[dims], in_channels, out_channels, OPTIONS[name] | more)


def build(name: str, config: NetworkConfig, seed: int = 0) -> SegmentationNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ARCHITECTURES[name].build_network(config)


def make_image(config: NetworkConfig, size: tuple[int, ...] | None = None, *, batch_size: int = 2) -> Tensor:
    size = config.find_next_size(size or SIZES[config.spatial_dims])
    return torch.randn((batch_size, config.in_channels, *size), generator=torch.Generator().manual_seed(1))


def stir(network: torch.nn.Module) -> None:
    """Weights that begin at zero stop gradients for one step; here they begin elsewhere."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
