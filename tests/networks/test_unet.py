"""The U-Net: sizes, parameters counted by formula, gradients everywhere, and nothing shared by accident."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from medunet.networks import UNet

ISOTROPIC: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "features": (4, 8, 16),
    "strides": [(1, 1, 1), (2, 2, 2), (2, 2, 2)],
    "kernels": [(3, 3, 3)] * 3,
    "encoder_blocks": (2, 2, 2),
    "decoder_convolutions": (2, 2),
    "num_scales": 2,
}
ANISOTROPIC: dict[str, Any] = ISOTROPIC | {
    "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)],
    "kernels": [(1, 3, 3), (1, 3, 3), (3, 3, 3)],
}
FLAT: dict[str, Any] = ISOTROPIC | {
    "spatial_dims": 2,
    "strides": [(1, 1), (2, 2), (2, 1)],
    "kernels": [(3, 3)] * 3,
    "num_scales": 1,
}
UNEVEN: dict[str, Any] = ISOTROPIC | {"encoder_blocks": (1, 3, 2), "decoder_convolutions": (1, 2)}
SHAPES = [ISOTROPIC, ANISOTROPIC, FLAT, UNEVEN]
IDS = ["isotropic", "anisotropic", "2d", "uneven"]


def build(settings: dict[str, Any], seed: int = 0, **changes: Any) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(**(settings | changes))


def make_image(settings: dict[str, Any], size: Any, *, batch_size: int = 2) -> torch.Tensor:
    return torch.randn((batch_size, settings["in_channels"], *size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (ISOTROPIC, (8, 8, 8)),
        (ISOTROPIC, (16, 8, 12)),
        (ISOTROPIC, (20, 24, 4)),
        (ANISOTROPIC, (2, 8, 8)),
        (ANISOTROPIC, (10, 16, 4)),
        (FLAT, (8, 8)),
        (FLAT, (12, 6)),
        (FLAT, (4, 30)),
    ],
)
def test_logits_lie_on_the_grid_of_the_image(settings: dict[str, Any], size: Any) -> None:
    network, image = build(settings), make_image(settings, size)
    logits = network(image)
    assert logits.shape == (2, 3, *size)
    assert torch.isfinite(logits).all()
    scales = network.forward_scales(image)
    assert len(scales) == settings["num_scales"]
    assert torch.equal(scales[0], logits)
    for scale, found in enumerate(scales):
        factor = [math.prod(stride[axis] for stride in settings["strides"][: scale + 1]) for axis in range(len(size))]
        assert found.shape == (2, 3, *(n // f for n, f in zip(size, factor, strict=True)))


def count_by_formula(settings: dict[str, Any]) -> int:
    """Convolutions with two numbers of normalisation per channel; transposed ones as large as their stride; heads."""
    features, widths = settings["features"], [settings["in_channels"], *settings["features"]]

    def count_row(first: int, width: int, size: int, num_convolutions: int) -> int:
        return (first + (num_convolutions - 1) * width) * width * size + 2 * width * num_convolutions

    total = 0
    for stage, kernel in enumerate(settings["kernels"]):
        size, width = math.prod(kernel), features[stage]
        total += count_row(widths[stage], width, size, settings["encoder_blocks"][stage])
        if stage < len(features) - 1:
            total += features[stage + 1] * width * math.prod(settings["strides"][stage + 1])
            total += count_row(2 * width, width, size, settings["decoder_convolutions"][stage])
    return total + sum((features[scale] + 1) * settings["out_channels"] for scale in range(settings["num_scales"]))


@pytest.mark.parametrize("settings", SHAPES, ids=IDS)
def test_parameters_are_counted(settings: dict[str, Any]) -> None:
    assert sum(parameter.numel() for parameter in build(settings).parameters()) == count_by_formula(settings)


def test_parameters_of_the_hippocampus_network() -> None:
    """By hand, kernel 27: encoder 32: 28,512 + 64: 165,888 + 128: 663,552 + 256: 2,654,208 and 1,920 of normalisation;
    transposed 16,384 + 65,536 + 262,144; decoder 82,944 + 331,776 + 1,327,104 and 896; heads 99 + 195."""
    settings = ISOTROPIC | {
        "in_channels": 1,
        "features": (32, 64, 128, 256),
        "strides": [(1, 1, 1)] + [(2, 2, 2)] * 3,
        "kernels": [(3, 3, 3)] * 4,
        "encoder_blocks": (2,) * 4,
        "decoder_convolutions": (2,) * 3,
    }
    assert sum(parameter.numel() for parameter in UNet(**settings).parameters()) == 5_601_158


@pytest.mark.parametrize("settings", SHAPES, ids=IDS)
def test_gradients_reach_every_parameter(settings: dict[str, Any]) -> None:
    network = build(settings)
    scales = network.forward_scales(make_image(settings, (8,) * settings["spatial_dims"]))
    weights = [torch.randn(scale.shape, generator=torch.Generator().manual_seed(2)) for scale in scales]
    sum((scale * weight).sum() for scale, weight in zip(scales, weights, strict=True)).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("settings", SHAPES, ids=IDS)
def test_no_parameter_is_shared(settings: dict[str, Any]) -> None:
    network = build(settings)
    storages = [parameter.data_ptr() for parameter in network.parameters()]
    assert len(storages) == len(set(storages))
    assert len(list(network.named_parameters())) == len(list(network.named_parameters(remove_duplicate=False)))
    modules = [module for module in network.modules() if not list(module.children())]
    assert len({id(module) for module in modules}) == len(modules)


def test_skips_carry_detail() -> None:
    """With nothing coming up from below, the answer still depends on the image, at every scale."""
    network = build(ISOTROPIC)
    for upsampler in network.upsamplers:
        nn.init.zeros_(upsampler.weight)
    image = make_image(ISOTROPIC, (8, 8, 8))
    for one, other in zip(network.forward_scales(image), network.forward_scales(image.flip(0)), strict=True):
        assert (one - other).abs().max() > 0.1


def test_the_seed_decides_the_weights() -> None:
    first, second, other = build(ISOTROPIC, 3), build(ISOTROPIC, 3), build(ISOTROPIC, 4)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name]), name
    assert not torch.equal(first.encoder[0][0].weight, other.encoder[0][0].weight)


def test_weights_start_as_he_proposed() -> None:
    network = build(ISOTROPIC, features=(32, 64, 64))
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.in_channels >= 32 and module.out_channels >= 32:
            fan_in = module.in_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 0.01**2) / fan_in), rel=0.05)
    assert all(not head.bias.any() for head in network.heads)


def test_a_patch_does_not_depend_on_its_batch() -> None:
    network, image = build(ISOTROPIC), make_image(ISOTROPIC, (8, 8, 8), batch_size=3)
    alone = torch.cat([network(patch[None]) for patch in image])
    assert torch.allclose(network(image), alone, atol=1e-5)


def test_the_image_is_left_alone() -> None:
    image = make_image(ISOTROPIC, (8, 8, 8))
    before = image.clone()
    build(ISOTROPIC)(image)
    assert torch.equal(image, before)


def test_training_mode_changes_nothing() -> None:
    """Instance normalisation has no running statistics, so validation sees what training sees."""
    network, image = build(ISOTROPIC), make_image(ISOTROPIC, (8, 8, 8))
    assert torch.equal(network.train()(image), network.eval()(image))
    assert not list(network.buffers())


def test_a_shift_by_the_stride_shifts_the_answer() -> None:
    """With the statistics of the normalisation the same, as on a torus, inner voxels move with the image."""
    network = build(ISOTROPIC)
    image = torch.zeros(1, 2, 40, 40, 40)
    image[:, :, 16:20, 16:20, 16:20] = make_image(ISOTROPIC, (4, 4, 4), batch_size=1)
    moved = torch.roll(image, (4, 4, 4), (2, 3, 4))
    with torch.no_grad():
        there, here = torch.roll(network(image), (4, 4, 4), (2, 3, 4)), network(moved)
    inner = (slice(None), slice(None), *[slice(16, 28)] * 3)
    scale = here[inner].std()
    assert (there - here)[inner].abs().max() < 0.1 * scale


@pytest.mark.parametrize(
    ("settings", "size", "divisors"),
    [
        (ISOTROPIC, (9, 8, 8), "4x4x4, got 9x8x8; pad the image or use 12x8x8"),
        (ISOTROPIC, (8, 8, 6), "4x4x4, got 8x8x6; pad the image or use 8x8x8"),
        (ANISOTROPIC, (3, 8, 8), "2x4x4, got 3x8x8; pad the image or use 4x8x8"),
        (FLAT, (8, 7), "4x2, got 8x7; pad the image or use 8x8"),
    ],
)
def test_a_size_that_does_not_divide_is_explained(settings: dict[str, Any], size: Any, divisors: str) -> None:
    with pytest.raises(ValueError, match=f"takes sizes that are multiples of {divisors}, the next size"):
        build(settings)(make_image(settings, size))


@pytest.mark.parametrize("size", [(4, 4, 4), (3, 1, 4)])
def test_one_voxel_on_the_coarsest_grid_is_too_few(size: Any) -> None:
    """The normalisation would make it 0; the size that is named is taken."""
    with pytest.raises(ValueError, match=f"got {'x'.join(map(str, size))}; pad the image or use 4x4x8"):
        build(ISOTROPIC)(make_image(ISOTROPIC, size))
    with torch.no_grad():
        assert torch.isfinite(build(ISOTROPIC)(make_image(ISOTROPIC, (4, 4, 8)))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (4,), "strides": [(1, 1, 1)], "kernels": [(3, 3, 3)]}, "at least 2"),
        ({"features": (4, 8)}, r"as many strides \(3\) and kernels \(3\) as features \(2\)"),
        ({"encoder_blocks": (2, 2)}, r"3 stages need 3 numbers of encoder blocks.*got \(2, 2\) and \(2, 2\)"),
        ({"decoder_convolutions": (2, 2, 2)}, r"and 2 of decoder convolutions; got \(2, 2, 2\) and \(2, 2, 2\)"),
        ({"num_scales": 3}, "num_scales is 3; 3 stages have 1 to 2"),
        ({"num_scales": 0}, "num_scales is 0"),
    ],
)
def test_a_shape_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(ISOTROPIC, **changes)
