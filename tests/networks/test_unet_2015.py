"""The U-Net of 2015: the paper's sizes, layers and weights, and how it answers for the borders of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medunet.networks.borders import (
    crop_center,
    find_valid_margin,
    find_valid_output,
    mirror_pad,
)
from medunet.networks.unet_2015 import UNet2015, UNet2015Config


def build(seed: int = 0, **fields: object) -> UNet2015:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2015(UNet2015Config(**fields)).eval()  # type: ignore[arg-type]


def watch_shapes(network: UNet2015, image: torch.Tensor) -> list[tuple[int, ...]]:
    """Channels and sizes after every convolution, in the order of computing."""
    shapes: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    network.compute_inside(image)
    return shapes


def test_the_sizes_of_the_papers_figure() -> None:
    """Figure 1, from 572 x 572 to 388 x 388, by way of 30 x 30 x 1024 and 28 x 28 x 1024."""
    with torch.device("meta"):
        network = UNet2015(UNet2015Config())
        shapes = watch_shapes(network, torch.empty(1, 1, 572, 572))
    contracting = [(64, 570), (64, 568), (128, 282), (128, 280), (256, 138), (256, 136), (512, 66), (512, 64)]
    bottom = [(1024, 30), (1024, 28)]
    expansive = [
        *[(512, 56), (512, 54), (512, 52)],
        *[(256, 104), (256, 102), (256, 100)],
        *[(128, 200), (128, 198), (128, 196)],
        *[(64, 392), (64, 390), (64, 388)],
    ]
    assert shapes == [(c, n, n) for c, n in [*contracting, *bottom, *expansive, (2, 388)]]


def test_parameters_layer_by_layer() -> None:
    """A 3x3 convolution has 9 weights per pair of channels and a bias per output; counted here by hand, not by torch."""
    down = [
        (1, 64),
        (64, 64),
        (64, 128),
        (128, 128),
        (128, 256),
        (256, 256),
        (256, 512),
        (512, 512),
        (512, 1024),
        (1024, 1024),
    ]
    up = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    total = sum(9 * a * b + b for a, b in down + up)
    total += sum(4 * a * b + b for a, b in [(1024, 512), (512, 256), (256, 128), (128, 64)]) + 64 * 2 + 2
    with torch.device("meta"):
        network = UNet2015(UNet2015Config())
    assert sum(parameter.numel() for parameter in network.parameters()) == total == 31_030_658


def test_dropout_follows_the_two_deepest_levels() -> None:
    network = build(width=4, dropout=0.5).train()
    calls: list[int] = []
    network.dropout.register_forward_hook(lambda _, __, output: calls.append(output.shape[1]))
    network.compute_inside(torch.zeros(1, 1, 188, 188))
    assert calls == [32, 64]


def test_weights_are_hes() -> None:
    network = build()
    convolution = network.contracting[3][1][0]
    assert convolution.weight.std().item() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.02)


@pytest.mark.parametrize("size", [(5, 8), (20, 33), (1, 7), (40, 40)])
def test_every_size_is_answered_on_its_own_grid(size: tuple[int, int]) -> None:
    network = build(width=2, num_poolings=2)
    assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_mirrored_borders_are_numpys() -> None:
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    padded = mirror_pad(image, [(7, 2), (1, 11)])
    assert np.array_equal(padded[0, 0].numpy(), np.pad(image[0, 0].numpy(), [(7, 2), (1, 11)], mode="reflect"))
    assert mirror_pad(torch.ones(1, 1, 1, 2), [(2, 3), (0, 0)]).shape == (1, 1, 6, 2)


def test_cropping_takes_the_middle() -> None:
    assert crop_center(torch.arange(7.0).reshape(1, 1, 7), (3,)).flatten().tolist() == [2, 3, 4]


@pytest.mark.parametrize("num_poolings", [1, 2, 3, 4])
def test_margins_and_answers_fit_the_network(num_poolings: int) -> None:
    with torch.device("meta"):
        network = UNet2015(UNet2015Config(width=2, num_poolings=num_poolings))
        for size in range(1, 60):
            (answered,) = find_valid_output((size,), num_poolings)
            edge = answered + 2 * find_valid_margin(num_poolings)
            assert network.compute_inside(torch.empty(1, 1, edge, edge)).shape[2:] == (answered, answered)
            assert answered >= size
            assert answered - 2**num_poolings < size or answered == min(find_valid_output((1,), num_poolings))


def test_padded_convolutions_agree_inside() -> None:
    """The general form with ``padding="same"`` and the same weights answers the same where borders do not matter."""
    valid, same = build(width=4, num_poolings=1), build(width=4, num_poolings=1, padding="same")
    same.load_state_dict(valid.state_dict())
    image = torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inner = (slice(None), slice(None), slice(16, 32), slice(16, 32))
        assert torch.allclose(crop_center(valid(image), (16, 16)), same(image)[inner], atol=1e-5)
