"""The residual encoder U-Net: nnU-Net's parameters, blocks worked out by hand, and the interface of the plain U-Net."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medunet.networks import EncoderDecoder, ResidualUNet, UNet
from medunet.networks.blocks import BlockShape
from medunet.networks.residual_unet import ResidualBlock

VOLUME: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "features": (4, 8, 16),
    "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)],
    "kernels": [(1, 3, 3), (3, 3, 3), (3, 3, 3)],
    "encoder_blocks": (1, 3, 2),
    "decoder_convolutions": (1, 1),
    "num_scales": 2,
}
SLICE: dict[str, Any] = VOLUME | {
    "spatial_dims": 2,
    "strides": [(1, 1), (2, 2), (2, 1)],
    "kernels": [(3, 3)] * 3,
}
SETTINGS = pytest.mark.parametrize("settings", [VOLUME, SLICE], ids=["3d", "2d"])


def build(settings: dict[str, Any], seed: int = 0) -> ResidualUNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResidualUNet(**settings)


def make_image(settings: dict[str, Any], batch_size: int = 2) -> torch.Tensor:
    size = (8, 12, 16)[: settings["spatial_dims"]]
    return torch.randn((batch_size, settings["in_channels"], *size), generator=torch.Generator().manual_seed(1))


# ---- nnU-Net's networks ----------------------------------------------------------------------------------------------
#
# Counted with dynamic-network-architectures 0.4.4, which nnU-Net 2.8.1 builds its networks with:
#
#   from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
#   network = ResidualEncoderUNet(input_channels=1, n_stages=len(kernels), features_per_stage=features, num_classes=3,
#       conv_op=nn.Conv3d, kernel_sizes=kernels, strides=strides, n_blocks_per_stage=blocks,
#       n_conv_per_stage_decoder=decoder, conv_bias=False, norm_op=nn.InstanceNorm3d,
#       norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU)
#   sum(parameter.numel() for parameter in network.parameters())
#
# nnU-Net itself sets conv_bias=True, which gives the second number: a bias per channel that the normalisation after it
# takes away again (all but that of the transposed convolutions near the border). medunet has none.

LIVER = {"spatial_dims": 3, "strides": [(1, 1, 1)] + [(2, 2, 2)] * 5, "kernels": [(3, 3, 3)] * 6}
PROSTATE = {
    "spatial_dims": 3,
    "strides": [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)],
    "kernels": [(1, 3, 3)] * 2 + [(3, 3, 3)] * 5,
}
SLICES = {"spatial_dims": 2, "strides": [(1, 1)] + [(2, 2)] * 6, "kernels": [(3, 3)] * 7}


@pytest.mark.parametrize(
    ("kind", "shape", "without_bias", "with_bias"),
    [
        (UNet, LIVER, 31_191_759, 31_196_399),
        (UNet, PROSTATE, 44_572_242, 44_578_482),
        (UNet, SLICES, 33_464_786, 33_473_330),
        (ResidualUNet, LIVER, 102_336_719, 102_350_575),
        (ResidualUNet, PROSTATE, 140_384_978, 140_403_314),
        (ResidualUNet, SLICES, 105_892_306, 105_918_322),
    ],
)
def test_parameters_are_those_of_nnunet(
    kind: type[EncoderDecoder], shape: dict[str, Any], without_bias: int, with_bias: int
) -> None:
    num_stages = len(shape["kernels"])
    is_residual = kind is ResidualUNet
    with torch.device("meta"):
        network = kind(
            **shape,
            in_channels=1,
            out_channels=3,
            features=[min(32 * 2**stage, 320 if shape["spatial_dims"] == 3 else 512) for stage in range(num_stages)],
            encoder_blocks=((1, 3, 4) + (6,) * 7)[:num_stages] if is_residual else (2,) * num_stages,
            decoder_convolutions=(1 if is_residual else 2,) * (num_stages - 1),
            num_scales=num_stages - 1,  # nnU-Net builds a head for the coarsest scale too, whose loss has no weight
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == without_bias
    shortcuts = {
        id(module)
        for block in network.modules()
        if isinstance(block, ResidualBlock)
        for module in block.shortcut.modules()
    }
    convolutions = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    biases = sum(
        module.out_channels
        for module in network.modules()
        if isinstance(module, convolutions) and module.bias is None and id(module) not in shortcuts
    )
    assert without_bias + biases == with_bias


# ---- one block by hand -----------------------------------------------------------------------------------------------


def test_a_block_by_hand() -> None:
    """conv - norm - leaky - conv - norm, plus pooled and widened input, then leaky."""
    shape = BlockShape(spatial_dims=3, in_channels=3, out_channels=5, stride=(1, 2, 2), kernel=(1, 3, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = ResidualBlock(shape)
    first, _, _, second, _ = block.convolutions
    widen = block.shortcut[1]
    x = torch.randn((2, 3, 4, 6, 8), generator=torch.Generator().manual_seed(1))
    inner = F.leaky_relu(F.instance_norm(F.conv3d(x, first.weight, stride=(1, 2, 2), padding=(0, 1, 1))), 0.01)
    inner = F.instance_norm(F.conv3d(inner, second.weight, padding=(0, 1, 1)))
    shortcut = F.instance_norm(F.conv3d(F.avg_pool3d(x, (1, 2, 2)), widen.weight))
    assert torch.allclose(block(x), F.leaky_relu(inner + shortcut, 0.01), atol=1e-5)


@pytest.mark.parametrize(
    ("out_channels", "stride", "names"),
    [
        (3, (1, 1), []),
        (3, (2, 2), ["AvgPool2d"]),
        (5, (1, 1), ["Conv2d", "InstanceNorm2d"]),
        (5, (2, 1), ["AvgPool2d", "Conv2d", "InstanceNorm2d"]),
    ],
)
def test_the_shortcut_does_only_what_it_must(out_channels: int, stride: Any, names: list[str]) -> None:
    block = ResidualBlock(
        BlockShape(spatial_dims=2, in_channels=3, out_channels=out_channels, stride=stride, kernel=(3, 3))
    )
    assert [type(module).__name__ for module in block.shortcut] == names


@SETTINGS
def test_blocks_start_as_their_shortcuts(settings: dict[str, Any]) -> None:
    """So a fresh network does not depend on the kernels inside its blocks."""
    network, image = build(settings), make_image(settings)
    before = network(image)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                module.convolutions[0].weight.add_(1.0)
    assert torch.equal(network(image), before)


# ---- the interface ---------------------------------------------------------------------------------------------------


@SETTINGS
def test_scales_lie_on_the_grids_of_their_stages(settings: dict[str, Any]) -> None:
    network, image = build(settings), make_image(settings)
    scales = network.forward_scales(image)
    assert torch.equal(scales[0], network(image))
    for scale, logits in enumerate(scales):
        factors = [
            math.prod(stride[axis] for stride in settings["strides"][: scale + 1])
            for axis in range(settings["spatial_dims"])
        ]
        assert logits.shape == (2, 3, *(n // factor for n, factor in zip(image.shape[2:], factors, strict=True)))
        assert torch.isfinite(logits).all()
    assert len(scales) == 2


@SETTINGS
def test_gradients_reach_every_parameter(settings: dict[str, Any]) -> None:
    network = build(settings)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.ones_(module.convolutions[-1].weight)  # as after the first steps
    scales = network.forward_scales(make_image(settings))
    weights = [torch.randn(scale.shape, generator=torch.Generator().manual_seed(2)) for scale in scales]
    torch.stack([(scale * weight).sum() for scale, weight in zip(scales, weights, strict=True)]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@SETTINGS
def test_the_seed_decides_the_weights(settings: dict[str, Any]) -> None:
    first, second, other = (build(settings, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_size_that_does_not_divide_is_explained() -> None:
    with pytest.raises(ValueError, match="multiples of 2x4x4, got 8x12x15; pad the image or use 8x12x16"):
        build(VOLUME)(make_image(VOLUME)[..., :15])
