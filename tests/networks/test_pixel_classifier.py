"""The sliding-window classifier run densely is the classifier run window by window."""

from __future__ import annotations

import itertools

import pytest
import torch

from medunet.networks.borders import mirror_pad
from medunet.networks.pixel_classifier import PixelClassifier, PixelClassifierConfig


def build(**fields: object) -> PixelClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PixelClassifier(PixelClassifierConfig(**fields)).eval()  # type: ignore[arg-type]


def classify_one_by_one(network: PixelClassifier, image: torch.Tensor) -> torch.Tensor:
    """As in 2012: a window around every voxel of the mirrored image."""
    edge, dims = network.settings.window, image.dim() - 2
    padded = mirror_pad(image, [(edge // 2, edge // 2)] * dims)
    windows = [
        padded[(slice(None), slice(None), *(slice(n, n + edge) for n in place))]
        for place in itertools.product(*map(range, image.shape[2:]))
    ]
    logits = network.classify_windows(torch.cat(windows))
    return logits.T.reshape(1, -1, *image.shape[2:])


@pytest.mark.parametrize(
    ("dims", "size", "fields"),
    [
        (2, (9, 12), {"width": 6}),  # the paper's windows of 95
        (2, (15, 8), {"width": 6, "kernels": (4, 4)}),
        (2, (5, 6), {"width": 4, "kernels": (4, 3), "last_grid": 2}),
        (3, (4, 5, 3), {"width": 4, "kernels": (4, 4)}),
    ],
)
def test_dense_equals_window_by_window(dims: int, size: tuple[int, ...], fields: dict[str, object]) -> None:
    network = build(spatial_dims=dims, in_channels=2, out_channels=3, **fields)
    image = torch.randn((1, 2, *size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense, single = network(image), classify_one_by_one(network, image)
    assert dense.std() > 0.01
    assert (dense - single).abs().max() < 1e-5


def test_the_papers_windows_and_layers() -> None:
    """N4: 95 -> 92 -> 46 -> 42 -> 21 -> 18 -> 9 -> 6 -> 3, then 200 neurons."""
    config = PixelClassifierConfig()
    assert (config.window, config.num_connected, config.receptive_field) == (95, 200, 95)
    with torch.device("meta"):
        network = PixelClassifier(config)
        sizes: list[int] = []
        for layer in network.convolutions:
            layer.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
        assert network.classify_windows(torch.empty(5, 1, 95, 95)).shape == (5, 2)
    assert sizes == [92, 42, 18, 6]


def test_windows_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 95 along every axis"):
        build(width=2).classify_windows(torch.zeros(1, 1, 95, 94))
