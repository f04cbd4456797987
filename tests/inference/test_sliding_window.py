"""Tiles cover, weights cancel, and the stitched whole is what the network says of its parts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medunet.inference import apply_sliding_window, plan_tiles

axes = st.tuples(st.integers(1, 23), st.integers(1, 19), st.integers(1, 29))
patches = st.tuples(st.integers(1, 13), st.integers(1, 16), st.integers(1, 11))
steps = st.floats(0.15, 1.0)


def give_back(tiles: Tensor) -> Tensor:
    return tiles


def make_image(shape: tuple[int, int, int], *, num_channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(num_channels, *shape, generator=torch.Generator().manual_seed(seed))


# ---- tiles -----------------------------------------------------------------------------------------------------------


@given(shape=axes, patch_size=patches, step_fraction=steps)
def test_tiles_cover_every_voxel_and_stay_inside(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int], step_fraction: float
) -> None:
    tiling = plan_tiles(shape, patch_size, step_fraction=step_fraction)
    count = np.zeros(tiling.padded_shape, int)
    for box in tiling.list_boxes():
        assert count[box].shape == patch_size
        count[box] += 1
    assert count.min() >= 1
    assert tiling.padded_shape == tuple(map(max, shape, patch_size))
    assert len(tiling) == len(tiling.list_boxes())


@given(shape=axes, patch_size=patches, step_fraction=steps)
def test_steps_never_exceed_the_share_of_the_tile(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int], step_fraction: float
) -> None:
    for starts, size in zip(plan_tiles(shape, patch_size, step_fraction=step_fraction).starts, patch_size, strict=True):
        assert all(1 <= b - a <= max(1, size * step_fraction) for a, b in itertools.pairwise(starts))


@given(shape=axes, patch_size=patches, step_fraction=steps)
def test_there_are_as_few_tiles_as_the_step_allows(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int], step_fraction: float
) -> None:
    tiling = plan_tiles(shape, patch_size, step_fraction=step_fraction)
    for starts, length, size in zip(tiling.starts, shape, patch_size, strict=True):
        largest = max(1, math.floor(size * step_fraction))
        assert len(starts) == 1 + math.ceil(max(0, length - size) / largest)


def test_tiles_lie_as_worked_out_by_hand() -> None:
    # 33 voxels, tiles of 16, steps of at most 8: 17 voxels of room in 3 steps of 5.67.
    assert plan_tiles((10, 20, 33), (16, 16, 16)).starts == ([0], [0, 4], [0, 6, 11, 17])


def test_sums_of_weights_are_those_of_a_counter_volume() -> None:
    tiling = plan_tiles((20, 33, 17), (8, 16, 16))
    i, j, k = tiling.windows
    window = i[:, None, None] * j[None, :, None] * k[None, None, :]
    counter = torch.zeros(tiling.padded_shape)
    for box in tiling.list_boxes():
        counter[box] += window
    i, j, k = tiling.compute_weight_sums()
    torch.testing.assert_close(i[:, None, None] * j[None, :, None] * k[None, None, :], counter)


@pytest.mark.parametrize("step_fraction", [0.0, -0.5, 1.01])
def test_a_step_out_of_range_is_refused(step_fraction: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        plan_tiles((10, 10, 10), (8, 8, 8), step_fraction=step_fraction)


# ---- stitching -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shape=axes, patch_size=patches, step_fraction=steps, value=st.floats(-1000, 1000, width=32))
def test_a_constant_stays_constant(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int], step_fraction: float, value: float
) -> None:
    image = torch.full((1, *shape), value)
    stitched = apply_sliding_window(
        image, give_back, patch_size, image.amin(dim=(1, 2, 3)), step_fraction=step_fraction
    )
    torch.testing.assert_close(stitched, image, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 7, 7), (13, 17, 19), (16, 16, 16), (40, 3, 21)])
@pytest.mark.parametrize("patch_size", [(16, 16, 16), (1, 24, 8), (5, 7, 11)])
def test_a_network_that_looks_at_single_voxels_sees_no_seams(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int]
) -> None:
    image = make_image(shape, num_channels=2)
    stitched = apply_sliding_window(
        image, lambda tiles: torch.cat([tiles**2, 3 - tiles], 1), patch_size, torch.zeros(2), batch_size=3
    )
    torch.testing.assert_close(stitched, torch.cat([image**2, 3 - image]), rtol=1e-5, atol=1e-5)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)).eval()


@pytest.mark.parametrize(
    ("shape", "patch_size", "starts"),
    [
        # Half a tile's step, without rounding.
        ((32, 24, 16), (16, 8, 16), ([0, 8, 16], [0, 4, 8, 12, 16], [0])),
        # Tiles that share more than half: 5 voxels of room in one step, 18 in three, 3 in one.
        ((21, 34, 11), (16, 16, 8), ([0, 5], [0, 6, 12, 18], [0, 3])),
        # Smaller than the patch along two axes, one voxel more along the third.
        ((7, 1, 17), (16, 8, 16), ([0], [0], [0, 1])),
    ],
    ids=["even", "uneven", "small"],
)
def test_it_is_what_monai_stitches_where_the_tiles_coincide(
    network: nn.Module, shape: tuple[int, int, int], patch_size: tuple[int, int, int], starts: tuple[list[int], ...]
) -> None:
    # MONAI takes steps of one length and moves the last tile, so it is given our step. It pads at both ends and we at the
    # end, so it gets the padded image. It raises the product of the three windows to 0.001, not each of them, so it is
    # given ours.
    image = make_image(shape, num_channels=2)
    tiling = plan_tiles(shape, patch_size)
    assert tiling.starts == starts
    overlap = [
        1 - (one[1] - one[0]) / size if len(one) > 1 else 0.5 for one, size in zip(starts, patch_size, strict=True)
    ]
    padded = torch.zeros(2, *tiling.padded_shape)
    box = (slice(None), *(slice(length) for length in shape))
    padded[box] = image
    with torch.inference_mode():
        ours = apply_sliding_window(image, network, patch_size, torch.zeros(2), batch_size=4)
        theirs = sliding_window_inference(
            padded[None], patch_size, 4, network, overlap=overlap, roi_weight_map=tiling.compute_window()
        )[0]
    torch.testing.assert_close(ours, theirs[box], rtol=0, atol=1e-4)


def test_the_window_is_monais_away_from_its_edge() -> None:
    i, j, k = plan_tiles((16, 8, 20), (16, 8, 20)).windows
    ours = i[:, None, None] * j[None, :, None] * k[None, None, :]
    theirs = compute_importance_map((16, 8, 20), mode="gaussian", sigma_scale=1 / 8)
    inside = theirs > 1e-2
    torch.testing.assert_close(ours[inside] / ours.max(), theirs[inside] / theirs.max(), rtol=1e-4, atol=0)


def test_a_volume_of_one_tile_is_what_the_network_says(network: nn.Module) -> None:
    image = make_image((16, 8, 16), num_channels=2)
    with torch.inference_mode():
        stitched = apply_sliding_window(image, network, (16, 8, 16), torch.zeros(2))
        torch.testing.assert_close(stitched, network(image[None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_a_batch_of_tiles_is_the_tiles_one_by_one(network: nn.Module, batch_size: int) -> None:
    image = make_image((21, 17, 30), num_channels=2)
    with torch.inference_mode():
        single = apply_sliding_window(image, network, (12, 16, 8), torch.zeros(2))
        batched = apply_sliding_window(image, network, (12, 16, 8), torch.zeros(2), batch_size=batch_size)
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-5)


def test_a_small_volume_is_padded_with_the_fill_of_each_channel() -> None:
    seen: list[Tensor] = []

    def predict(tiles: Tensor) -> Tensor:
        seen.append(tiles.clone())
        return tiles

    image = make_image((5, 6, 7), num_channels=2)
    stitched = apply_sliding_window(image, predict, (8, 6, 8), torch.tensor([-1000.0, 3.5]))
    (tile,) = seen[0]
    assert torch.equal(tile[:, :5, :6, :7], image)
    assert (tile[0, 5:] == -1000).all()
    assert (tile[1, 5:] == 3.5).all()
    assert (tile[0, :, :, 7:] == -1000).all()
    assert stitched.shape == (2, 5, 6, 7)


def test_sums_are_float32_whatever_the_network_computes_in() -> None:
    image = torch.full((1, 20, 20, 20), 1000.0)
    stitched = apply_sliding_window(image, lambda tiles: tiles.bfloat16(), (8, 8, 8), torch.zeros(1))
    assert stitched.dtype == torch.float32
    torch.testing.assert_close(stitched, image, rtol=1e-5, atol=0)


def test_the_image_is_left_as_it_was() -> None:
    image = make_image((9, 9, 9))
    before = image.clone()
    apply_sliding_window(image, lambda tiles: tiles.mul_(2), (8, 8, 8), torch.zeros(1))
    assert torch.equal(image, before)


def test_progress_counts_every_tile() -> None:
    calls: list[tuple[int, int]] = []

    def note(*numbers: Any) -> None:
        calls.append(numbers)

    apply_sliding_window(make_image((16, 8, 20)), give_back, (8, 8, 8), torch.zeros(1), batch_size=4, on_tiles=note)
    num_tiles = len(plan_tiles((16, 8, 20), (8, 8, 8)))
    assert calls[-1] == (num_tiles, num_tiles)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
