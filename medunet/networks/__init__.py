"""Segmentation networks, 2D and 3D through one ``spatial_dims`` argument."""

from medunet.networks.build import PatchNetwork, build_network
from medunet.networks.unet import UNet

__all__ = ["PatchNetwork", "UNet", "build_network"]
