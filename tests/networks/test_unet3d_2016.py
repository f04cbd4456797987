"""The 3D U-Net of 2016 in the paper's numbers."""

from __future__ import annotations

import torch
from torch import nn

from medunet.networks.unet3d_2016 import UNet3D2016, UNet3D2016Config


def test_the_papers_sizes() -> None:
    """Tiles of 132 x 132 x 116 voxels are answered for 44 x 44 x 28 (section 2)."""
    with torch.device("meta"):
        network = UNet3D2016(UNet3D2016Config(in_channels=3, out_channels=3))
        assert network.compute_inside(torch.empty(1, 3, 132, 132, 116)).shape == (1, 3, 44, 44, 28)


def test_the_papers_parameters() -> None:
    """ "The architecture has 19069955 parameters in total": convolutions without those of the batch normalisation."""
    with torch.device("meta"):
        network = UNet3D2016(UNet3D2016Config(in_channels=3, out_channels=3))
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)]
    assert sum(parameter.numel() for module in convolutions for parameter in module.parameters()) == 19_069_955


def test_channels_double_before_the_pooling() -> None:
    network = UNet3D2016(UNet3D2016Config(spatial_dims=2, width=4))
    widths = [[row[n][0].out_channels for n in (0, 1)] for row in network.analysis]
    assert widths == [[4, 8], [8, 16], [16, 32], [32, 64]]
