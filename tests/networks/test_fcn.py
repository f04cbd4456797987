"""FCN: interpolation at the start, skips that sum."""

from __future__ import annotations

import pytest
import torch

from medunet.networks.choices import resize
from medunet.networks.fcn import FCN, FCNConfig


def build(**fields: object) -> FCN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FCN(FCNConfig(width=1, in_channels=1, out_channels=3, **fields)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", [2, 3])
def test_transposed_convolutions_begin_as_linear_interpolation(dims: int) -> None:
    network = build(spatial_dims=dims, output_stride=32)
    scores = torch.randn((1, 3, *(5, 4, 6)[:dims]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = network.upsamplers[0](scores), resize(scores, [32 * n for n in scores.shape[2:]])
    inner = (slice(None), slice(None), *(slice(16, -16) for _ in range(dims)))  # beyond the border are zeros
    assert torch.allclose(ours[inner], theirs[inner], atol=1e-5)


@pytest.mark.parametrize(("stride", "factors"), [(32, (32,)), (16, (2, 16)), (8, (2, 2, 8))])
def test_scores_of_shallower_poolings_are_added(stride: int, factors: tuple[int, ...]) -> None:
    network = build(output_stride=stride)
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not network(image).any()  # scores begin at zero
        for number, skip in enumerate(network.skips):
            torch.nn.init.zeros_(skip.bias)
            skip.bias[number] = 2.0 + number
        logits = network(image)[0, :, 24:40, 24:40]
    assert len(network.skips) == len(factors) - 1
    for number in range(len(network.skips)):  # a constant stays that constant through every interpolation
        assert torch.allclose(logits[number], torch.tensor(2.0 + number), atol=1e-5)


def test_skips_are_as_wide_as_their_poolings() -> None:
    assert [skip.in_channels for skip in FCN(FCNConfig(width=2)).skips] == [16, 8]
