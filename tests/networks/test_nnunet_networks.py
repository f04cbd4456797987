"""With the same weights, nnU-Net's networks and these answer the same. Run where nnunetv2 is installed; else skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medunet.networks import EncoderDecoder, ResidualUNet, UNet

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]

ISOTROPIC = {"spatial_dims": 3, "strides": [(1, 1, 1), (2, 2, 2), (2, 2, 2)], "kernels": [(3, 3, 3)] * 3}
COARSE = {
    "spatial_dims": 3,
    "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)],
    "kernels": [(1, 3, 3), (3, 3, 3), (3, 3, 3)],
}
FLAT = {"spatial_dims": 2, "strides": [(1, 1), (2, 2), (2, 1)], "kernels": [(3, 3)] * 3}


@pytest.mark.parametrize("shape", [ISOTROPIC, COARSE, FLAT], ids=["isotropic", "coarse", "2d"])
@pytest.mark.parametrize("kind", [UNet, ResidualUNet])
def test_equal_weights_give_equal_logits(kind: type[EncoderDecoder], shape: dict[str, Any]) -> None:
    reason = "nnunetv2 is not installed; its networks are compared in the environment of the peers"
    peer = pytest.importorskip("dynamic_network_architectures.architectures.unet", reason=reason)
    is_residual = kind is ResidualUNet
    blocks, decoder = ((1, 3, 4), (1, 1)) if is_residual else ((2, 2, 2), (2, 2))
    torch.manual_seed(0)
    ours = kind(
        **shape,
        in_channels=2,
        out_channels=3,
        features=(4, 8, 16),
        encoder_blocks=blocks,
        decoder_convolutions=decoder,
        num_scales=2,
    )
    dims = shape["spatial_dims"]
    theirs = (peer.ResidualEncoderUNet if is_residual else peer.PlainConvUNet)(
        input_channels=2,
        n_stages=3,
        features_per_stage=(4, 8, 16),
        conv_op=getattr(nn, f"Conv{dims}d"),
        kernel_sizes=shape["kernels"],
        strides=shape["strides"],
        num_classes=3,
        n_conv_per_stage_decoder=decoder,
        conv_bias=False,
        norm_op=getattr(nn, f"InstanceNorm{dims}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **{"n_blocks_per_stage" if is_residual else "n_conv_per_stage": blocks},
    )
    give_weights(theirs, ours)
    image = torch.randn((2, 2, *(8, 16, 12)[:dims]))
    for mine, other in zip(ours.forward_scales(image), theirs(image), strict=True):
        assert mine.std() > 0.1
        assert torch.allclose(mine, other, atol=1e-5)


def give_weights(theirs: Any, ours: EncoderDecoder) -> None:
    """New random weights for nnU-Net's network, and the same for ours; nnU-Net lists its decoder from the coarsest."""
    pairs = [(theirs.encoder, ours.encoder)]
    for name, modules in (("stages", ours.decoder), ("transpconvs", ours.upsamplers), ("seg_layers", ours.heads)):
        pairs += list(zip(reversed(getattr(theirs.decoder, name)), modules, strict=True))
    with torch.no_grad():
        for source, target in pairs:
            for given, taken in zip(source.parameters(), target.parameters(), strict=True):
                given.copy_(torch.randn(given.shape) / max(1, given[0].numel()) ** 0.5)
                taken.copy_(given)
