"""Deformed labels are those of one-hot maps that are interpolated linearly and compared, for any number of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates, uniform_filter
from torch import Tensor

from medunet.augmentation import apply_spatial, warp_labels, zoom_labels
from medunet.augmentation.labels import _compute_weights, _gather_corners, _locate, _vote


def make_codes(num_labels: int, shape: Any, *, seed: int = 0) -> Tensor:
    """Blobs of labels, of which the last is 255."""
    noise = np.random.default_rng(seed).random((num_labels, *shape))
    smooth = uniform_filter(noise, (0, 3, 3, 3))
    values = torch.tensor([*range(num_labels - 1), 255], dtype=torch.uint8)
    codes = values[torch.from_numpy(smooth.argmax(0))]
    codes[:2, :2, :3] = 255
    return codes


def make_positions(shape: Any, number: Any, *, seed: int = 1, margin: float = 2.0) -> Tensor:
    """Anywhere in the box and up to a margin around it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((*number, 3), generator=generator) * (torch.tensor(shape) + 2 * margin) - margin


def warp_one_hot(codes: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """Label by label with the same eight weights, summed in the same order: result and scores ``(labels, ...)``."""
    values = codes.unique()
    cells, shares = _locate(coordinates, codes)
    corners, weights = _gather_corners(codes, cells), _compute_weights(shares)
    scores = []
    for value in values:
        score = torch.zeros_like(weights[0])
        for corner, weight in zip(corners, weights, strict=True):
            score += weight * (corner == value)
        scores.append(score.reshape(coordinates.shape[:-1]))
    stacked = torch.stack(scores)
    return values[stacked.argmax(0)], stacked  # argmax gives the first, that is the lowest, of equal ones


@pytest.mark.parametrize("num_labels", [2, 16, 117])
@pytest.mark.parametrize("shape", [(17, 22, 31), (9, 1, 14)])
def test_equal_to_one_hot_and_argmax(num_labels: int, shape: Any) -> None:
    codes = make_codes(num_labels, shape)
    coordinates = make_positions(shape, (21, 18, 13))
    found = warp_labels(codes, coordinates)
    expected, _ = warp_one_hot(codes, coordinates)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)
    assert (found == 255).any()
    nearest = apply_spatial(codes[None], coordinates, "nearest")[0].to(torch.uint8)
    assert 0.005 < (found != nearest).float().mean() < 0.5  # it is not nearest neighbour


@pytest.mark.parametrize("num_labels", [2, 16, 117])
def test_equal_to_torch_and_scipy_but_for_ties(num_labels: int) -> None:
    """Against one-hot maps through ``grid_sample`` and ``map_coordinates``, which round in their own ways."""
    shape = (11, 14, 9)
    codes = make_codes(num_labels, shape)
    coordinates = make_positions(shape, (8, 16, 12))
    found = warp_labels(codes, coordinates)
    values = codes.unique()
    one_hot = (codes == values[:, None, None, None]).float()
    by_torch = apply_spatial(one_hot, coordinates, "bilinear")
    inside = [coordinates[..., axis].double().clamp(0, size - 1).numpy() for axis, size in enumerate(shape)]
    by_scipy = torch.stack(
        [torch.from_numpy(map_coordinates(one.double().numpy(), inside, order=1)) for one in one_hot]
    )
    for scores in (by_torch.double(), by_scipy):
        best = scores.sort(0, descending=True).values
        is_clear = best[0] - best[1] > 1e-4
        assert is_clear.float().mean() > 0.99
        assert torch.equal(found[is_clear], values[scores.argmax(0)][is_clear])


def test_the_lowest_label_wins_a_tie() -> None:
    codes = torch.tensor([[7, 3], [255, 255]], dtype=torch.uint8).reshape(2, 2, 1)
    halfway = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 1.0, 0.0]])
    assert warp_labels(codes, halfway).tolist() == [3, 7, 255, 3]  # 255 holds half of the third


def test_a_label_may_win_without_a_majority() -> None:
    """Six corners of six labels against two of one: the pair wins, wherever it lies."""
    codes = torch.arange(1, 9, dtype=torch.uint8).reshape(2, 2, 2)
    codes[1, 1, 1] = codes[0, 1, 0]
    assert warp_labels(codes, torch.full((1, 3), 0.5)).item() == codes[0, 1, 0]


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6), (4, 1, 1), (1, 1, 1)])
def test_voxel_centres_give_the_labels_back(shape: Any) -> None:
    codes = make_codes(5, shape)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij"), -1)
    assert torch.equal(warp_labels(codes, grid), codes)


def test_outside_takes_the_border() -> None:
    codes = torch.arange(1, 5, dtype=torch.uint8).reshape(4, 1, 1)
    positions = torch.zeros(4, 3)
    positions[:, 0] = torch.tensor([-1e6, -0.4, 3.4, 1e6])
    positions[:, 1] = torch.tensor([-3.0, 0.0, 9.0, 0.2])
    assert warp_labels(codes, positions).tolist() == [1, 1, 4, 4]


def test_memory_order_does_not_matter() -> None:
    codes = make_codes(6, (8, 9, 10))
    coordinates = make_positions((8, 9, 10), (50,))
    strided = codes.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    assert torch.equal(warp_labels(strided, coordinates), warp_labels(codes, coordinates))


@pytest.mark.parametrize("num_labels", [2, 16, 117])
@pytest.mark.parametrize("shape", [(17, 22, 31), (9, 1, 14), (1, 1, 1)])
def test_labels_on_a_grid_are_those_at_its_crossings(num_labels: int, shape: Any) -> None:
    codes = make_codes(num_labels, shape)
    positions = [torch.linspace(-1.5, size + 0.7, number) for size, number in zip(shape, (21, 18, 13), strict=True)]
    coordinates = torch.stack(torch.meshgrid(*positions, indexing="ij"), -1)
    found = zoom_labels(codes, positions)
    assert torch.equal(found, warp_labels(codes, coordinates))
    assert len(found.unique()) > 1 or shape == (1, 1, 1)


def test_all_voxels_may_vote() -> None:
    """Other devices than the CPU let every voxel vote instead of picking out those on borders: the same result."""
    codes = make_codes(16, (12, 13, 14))
    coordinates = make_positions((12, 13, 14), (10, 11, 12))
    cells, shares = _locate(coordinates, codes)
    voted = _vote(_gather_corners(codes, cells), _compute_weights(shares)).reshape(10, 11, 12)
    assert torch.equal(voted, warp_labels(codes, coordinates))
