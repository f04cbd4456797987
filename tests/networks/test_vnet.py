"""V-Net: the receptive fields of the paper's table, and its residual sums."""

from __future__ import annotations

import pytest
import torch

from medunet.networks.receptive_field import Slide, compute_receptive_field
from medunet.networks.vnet import VNet, VNetConfig


def test_receptive_fields_of_the_papers_table() -> None:
    """Table 1, left part: 5, 22, 72, 172 and 372. On the way up the paper counts a transposed convolution as two voxels wide."""
    path = list(VNetConfig().path)
    downs = [n for n, step in enumerate(path) if step == Slide(2, 2)]
    ends = [*downs, downs[-1] + 4]
    assert [compute_receptive_field(path[:end]) for end in ends] == [5, 22, 72, 172, 372]


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_the_input_is_repeated_for_the_first_sum(in_channels: int) -> None:
    """Whatever its channels, which MONAI's V-Net restricts."""
    network = VNet(VNetConfig(width=4, in_channels=in_channels, norm="none", activation="relu"))
    torch.nn.init.zeros_(network.first.convolutions[0][0].weight)
    image = torch.rand(1, in_channels, 16, 16, 16)
    features = network.first(image)
    assert torch.equal(features, image[:, [channel % in_channels for channel in range(4)]])


def test_channels_of_the_paper() -> None:
    with torch.device("meta"):
        network = VNet(VNetConfig())
        widths: list[int] = []
        for row in [network.first, *network.encoder, *reversed(network.decoder)]:
            row.register_forward_hook(lambda _, __, output: widths.append(output.shape[1]))
        network(torch.empty(1, 1, 32, 32, 32))
    assert widths == [16, 32, 64, 128, 256, 256, 128, 64, 32]
