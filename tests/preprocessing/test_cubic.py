"""One matrix per axis gives SciPy's cubic splines, and so nnU-Net's resampling of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates, zoom

from medunet.errors import GeometryError
from medunet.preprocessing import find_coarse_axis, resample_cubic
from medunet.preprocessing.cubic import compute_cubic_matrix
from medunet.volume import Array, to_orientation


def make_image(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shrink_grid(source: tuple[int, ...], target: tuple[int, ...]) -> Array:
    """The affine of a grid of another number of voxels over the same box, source voxels being 1 mm."""
    ratio = np.array(source) / np.array(target)
    affine = np.diag([*ratio, 1.0])
    affine[:3, 3] = (ratio - 1) / 2
    return affine


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(1, 17)] * 3), st.tuples(*[st.integers(1, 23)] * 3), st.integers(0, 99))
def test_it_is_scipys_zoom(shape: Any, target: Any, seed: int) -> None:
    """``grid_mode`` with ``nearest`` is what scikit-image does for nnU-Net."""
    image = make_image((2, *shape), seed)
    found = resample_cubic(torch.from_numpy(image), np.eye(4), shrink_grid(shape, target), target)
    factors = [new / old for new, old in zip(target, shape, strict=True)]
    for channel, mine in zip(image.astype(np.float64), found, strict=True):
        expected = zoom(channel, factors, order=3, mode="nearest", grid_mode=True)
        assert mine.shape == expected.shape == target
        assert np.abs(mine.numpy() - expected).max() < 2e-5


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.lists(st.floats(-6, 36), min_size=1, max_size=20), st.integers(0, 99))
def test_a_line_is_scipys_spline_between_and_beyond_its_voxels(length: int, positions: Any, seed: int) -> None:
    line = np.random.default_rng(seed).normal(size=length)
    matrix = compute_cubic_matrix(length, np.array(positions))
    # SciPy clamps positions before it interpolates; a line with its border repeated says what lies beyond.
    expected = map_coordinates(np.pad(line, 40, mode="edge"), [np.array(positions) + 40], order=3, mode="nearest")
    assert np.abs(matrix @ line - expected).max() < 1e-6
    assert matrix.sum(axis=1) == pytest.approx(np.ones(len(positions)), abs=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_a_spline_goes_through_its_voxels(length: int) -> None:
    assert np.allclose(compute_cubic_matrix(length, np.arange(float(length))), np.eye(length), atol=1e-6)


def test_a_straight_line_stays_straight() -> None:
    """Away from the border, where the repeated voxel makes a kink."""
    matrix = compute_cubic_matrix(40, np.arange(12.0, 28.0, 0.37))
    assert np.allclose(matrix @ np.arange(40.0), np.arange(12.0, 28.0, 0.37), atol=1e-5)


@pytest.mark.parametrize("orientation", ["LPI", "ASR", "IPR"])
def test_axes_may_run_in_any_order(make_volume: Any, orientation: str) -> None:
    volume = make_volume()
    turned = to_orientation(volume, orientation)
    found = resample_cubic(torch.from_numpy(volume.array), volume.affine, turned.affine, turned.spatial_shape)
    assert np.array_equal(found.numpy(), turned.array)  # nothing is interpolated


def test_nothing_is_done_where_nothing_changes() -> None:
    image = torch.from_numpy(make_image((1, 5, 6, 7)))
    assert resample_cubic(image, np.eye(4), np.eye(4), (5, 6, 7)).data_ptr() == image.data_ptr()


def test_across_thick_slices_the_nearest_is_taken() -> None:
    """In the plane cubic, across it whole slices: nnU-Net's order 3 and order 0."""
    image = make_image((1, 9, 8, 4))
    target = (12, 6, 10)
    found = resample_cubic(torch.from_numpy(image), np.eye(4), shrink_grid((9, 8, 4), target), target, nearest_axis=2)
    expected = zoom(image[0].astype(np.float64), (12 / 9, 6 / 8, 1), order=3, mode="nearest", grid_mode=True)
    slices = np.floor((np.arange(10) + 0.5) * 4 / 10).astype(int)
    assert slices.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert np.abs(found[0].numpy() - expected[:, :, slices]).max() < 2e-5


@pytest.mark.parametrize(
    ("source", "target", "axis"),
    [
        ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), None),
        ((1.0, 1.0, 3.0), (1.0, 1.0, 3.0), None),
        ((0.5, 0.5, 1.6), (0.5, 0.5, 0.5), 2),
        ((6.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((1.0, 5.0, 1.0), (5.0, 1.0, 1.0), 1),
        ((0.24, 1.25, 1.25), (0.5, 1.25, 1.25), None),
    ],
)
def test_which_axis_is_coarse(source: Any, target: Any, axis: int | None) -> None:
    """The cases of nnU-Net's determine_do_sep_z_and_axis."""
    assert find_coarse_axis(source, target) == axis


def test_rotated_grids_are_refused() -> None:
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(GeometryError, match="rotated against each other"):
        resample_cubic(torch.zeros(1, 2, 3, 4), np.eye(4), turned, (2, 3, 4))
