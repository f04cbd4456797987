"""Segmentation networks, 2D and 3D through one ``spatial_dims`` argument."""

from medunet.networks.build import Margins, PatchNetwork, build_network, find_surroundings
from medunet.networks.catalogue import ARCHITECTURES, Architecture, find_architecture
from medunet.networks.choose import replace_network
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.encoder_decoder import EncoderDecoder
from medunet.networks.encoder_weights import (
    ENCODER_NETWORKS,
    EncoderWeights,
    find_encoder_options,
    load_encoder_weights,
    read_encoder_weights,
)
from medunet.networks.network import SegmentationNetwork
from medunet.networks.residual_unet import ResidualUNet
from medunet.networks.summary import NetworkSummary, summarize_networks
from medunet.networks.unet import UNet

__all__ = [
    "ARCHITECTURES",
    "ENCODER_NETWORKS",
    "Architecture",
    "EncoderDecoder",
    "EncoderWeights",
    "Margins",
    "NetworkConfig",
    "NetworkSummary",
    "PatchNetwork",
    "ResidualUNet",
    "SegmentationNetwork",
    "Stage",
    "UNet",
    "build_network",
    "find_architecture",
    "find_encoder_options",
    "find_surroundings",
    "load_encoder_weights",
    "read_encoder_weights",
    "replace_network",
    "summarize_networks",
]
