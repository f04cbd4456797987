"""Segmentation networks, 2D and 3D through one ``spatial_dims`` argument."""

from medunet.networks.build import PatchNetwork, build_network
from medunet.networks.encoder_decoder import EncoderDecoder
from medunet.networks.residual_unet import ResidualUNet
from medunet.networks.unet import UNet

__all__ = ["EncoderDecoder", "PatchNetwork", "ResidualUNet", "UNet", "build_network"]
