"""Segmentation networks, 2D and 3D through one ``spatial_dims`` argument."""

from medunet.networks.build import PatchNetwork, build_network
from medunet.networks.catalogue import ARCHITECTURES, Architecture, find_architecture
from medunet.networks.choose import replace_network
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.encoder_decoder import EncoderDecoder
from medunet.networks.network import SegmentationNetwork
from medunet.networks.residual_unet import ResidualUNet
from medunet.networks.summary import NetworkSummary, summarize_networks
from medunet.networks.unet import UNet

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "EncoderDecoder",
    "NetworkConfig",
    "NetworkSummary",
    "PatchNetwork",
    "ResidualUNet",
    "SegmentationNetwork",
    "Stage",
    "UNet",
    "build_network",
    "find_architecture",
    "replace_network",
    "summarize_networks",
]
