"""SegNet and DeconvNet: values go back to where the maxima were."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medunet.networks.choices import IndexPool, IndexUnpool
from medunet.networks.cost import count_parameters
from medunet.networks.deconvnet import DeconvNet, DeconvNetConfig
from medunet.networks.segnet import SegNet, SegNetConfig


@pytest.mark.parametrize("dims", [2, 3])
def test_unpooling_is_torchs(dims: int) -> None:
    image = torch.randn((2, 3, *(6, 8, 4)[:dims]), generator=torch.Generator().manual_seed(0))
    pooled, indices = IndexPool(dims)(image)
    theirs = F.max_unpool2d if dims == 2 else F.max_unpool3d
    assert torch.equal(IndexUnpool(dims)(pooled, indices), theirs(pooled, indices, 2))


def test_pooling_undoes_unpooling() -> None:
    image = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    pooled, indices = IndexPool(2)(image)
    spread = IndexUnpool(2)(pooled, indices)
    assert torch.equal(IndexPool(2)(spread)[0], pooled)
    assert torch.equal(spread[spread > 0], image[spread > 0])
    assert (spread > 0).sum() == 4


def test_the_decoder_follows_the_maxima() -> None:
    """Each level of SegNet's decoder has values only where the same level of its encoder had its maxima."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SegNet(SegNetConfig(width=2, in_channels=1, out_channels=3)).eval()
    indices: list[torch.Tensor] = []
    spread: list[torch.Tensor] = []
    network.pool.register_forward_hook(lambda _, __, output: indices.append(output[1]))
    for upsampler in network.upsamplers:
        upsampler.register_forward_hook(lambda _, __, output: spread.append(output))
    network(torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(0)))
    assert len(indices) == len(spread) == 5
    for where, values in zip(reversed(indices), spread, strict=True):
        at_maxima = values.flatten(2).gather(2, where.flatten(2))
        assert torch.equal(at_maxima.count_nonzero(), values.count_nonzero())
        assert at_maxima.count_nonzero() > 0


def test_the_papers_parameters() -> None:
    """Table 6 of SegNet's paper has 29.45 million for 12 classes; DeconvNet's has about 252 million."""
    with torch.device("meta"):
        segnet, deconvnet = SegNet(SegNetConfig()), DeconvNet(DeconvNetConfig())
    assert round(count_parameters(segnet) / 1e6, 2) == 29.45
    assert round(count_parameters(deconvnet) / 1e6) == 252


def test_deconvnet_passes_through_one_voxel() -> None:
    with torch.device("meta"):
        network = DeconvNet(DeconvNetConfig()).eval()
        shapes: list[tuple[int, ...]] = []
        for layer in network.connected:
            layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
        assert network(torch.empty(1, 3, 224, 224)).shape == (1, 21, 224, 224)
    assert shapes[:3] == [(4096, 1, 1), (4096, 1, 1), (512, 7, 7)]
    with pytest.raises(ValueError, match="use 224x224"):
        network(torch.empty(1, 3, 128, 96, device="meta"))


def test_small_patches_get_padded_layers() -> None:
    assert DeconvNetConfig.for_patch((224, 256)).padding == "valid"
    assert DeconvNetConfig.for_patch((64, 256, 256)).padding == "same"
