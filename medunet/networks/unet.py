"""The U-Net in nnU-Net's plain shape, 2D and 3D.

Convolutions on both sides, each followed by instance normalisation and leaky ReLU; strided convolutions go down,
transposed ones up; skips are concatenated (Ronneberger 2015, doi:10.1007/978-3-319-24574-4_28; Isensee 2021,
doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from torch import nn

from medunet.networks.blocks import BlockShape, ConvolutionStage
from medunet.networks.encoder_decoder import EncoderDecoder


class UNet(EncoderDecoder):
    """A U-Net whose encoder stages are ``encoder_blocks`` convolutions in a row, two in nnU-Net."""

    @staticmethod
    def _build_encoder_stage(stage: int, shape: BlockShape, num_blocks: int) -> nn.Module:
        return ConvolutionStage(shape, num_blocks)
