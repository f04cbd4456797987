"""The separable way from grid to grid gives what SciPy gives on the full grid, and moves nothing in the world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medunet.errors import GeometryError
from medunet.preprocessing import (
    compute_axis_mapping,
    find_coarse_axis,
    find_winner,
    resample_label_map,
    resample_linear,
)
from medunet.volume import Affine, Array, Volume, to_orientation

ORIENTATIONS = ["RAS", "LPI", "LAS", "PIR", "SAL", "IPR", "ASL", "RIP"]


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, int, int], Affine]:
    """A shape and an affine whose axes run along the world's in any order and direction."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    order = draw(st.permutations([0, 1, 2]))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[order[axis], axis] = draw(st.floats(0.4, 3)) * draw(st.sampled_from([-1, 1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-8, 8)] * 3))
    return shape, affine


def interpolate_with_scipy(
    values: Array, source_affine: Affine, target_affine: Affine, target_shape: tuple[int, int, int]
) -> Array:
    indices = np.indices(target_shape).reshape(3, -1)
    homogeneous = np.vstack([indices, np.ones(indices.shape[1])])
    positions = (np.linalg.inv(source_affine) @ target_affine @ homogeneous)[:3]
    result: Array = map_coordinates(values.astype(np.float64), positions, order=1, mode="nearest").reshape(target_shape)
    return result


@settings(deadline=None)
@given(grids(), grids(), st.integers(0, 2**31))
def test_linear_is_scipys(source: Any, target: Any, seed: int) -> None:
    (shape, affine), (target_shape, target_affine) = source, target
    values = np.random.default_rng(seed).normal(size=shape)
    expected = interpolate_with_scipy(values, affine, target_affine, target_shape)
    found = resample_linear(torch.from_numpy(values), affine, target_affine, target_shape)
    assert found.shape == target_shape
    assert np.abs(found.numpy() - expected).max() < 1e-9


@settings(deadline=None)
@given(grids(), grids(), st.integers(0, 2**31), st.integers(1, 4))
def test_the_winner_is_that_of_all_maps_at_once(source: Any, target: Any, seed: int, num_classes: int) -> None:
    (shape, affine), (target_shape, target_affine) = source, target
    maps = torch.from_numpy(np.random.default_rng(seed).normal(size=(num_classes, *shape)))
    each = torch.stack([resample_linear(scores, affine, target_affine, target_shape) for scores in maps])
    winners = find_winner(iter(each.clone()), target_shape)
    assert winners.dtype == torch.int16
    assert torch.equal(winners.long(), each.argmax(0))


@settings(deadline=None)
@given(grids(), grids(), st.integers(0, 2**31), st.integers(1, 5))
def test_a_label_map_is_the_winner_of_its_one_hot_maps(source: Any, target: Any, seed: int, num_labels: int) -> None:
    """Each label is handled within its own box, yet nothing is lost of it."""
    (shape, affine), (target_shape, target_affine) = source, target
    rng = np.random.default_rng(seed)
    values = rng.choice(1000, num_labels, replace=False)
    labels = np.zeros(shape, np.int16)
    for value in values:  # boxes, so that most labels are absent from most of the volume
        starts = [rng.integers(0, n) for n in shape]
        labels[tuple(slice(a, a + rng.integers(1, 5)) for a in starts)] = value
    found = resample_label_map(Volume(labels[None], affine), target_affine, target_shape).array[0]
    occurring = np.unique(labels)
    shares = np.stack([interpolate_with_scipy(labels == v, affine, target_affine, target_shape) for v in occurring])
    support = shares[np.searchsorted(occurring, found), *np.indices(target_shape)]
    assert np.isin(found, occurring).all()
    assert (support >= shares.max(0) - 1e-5).all()  # float32 may decide a tie


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_across_thick_slices_labels_are_taken_whole(axis: int) -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1], labels[:, 1], labels[:, :, 1] = 1, 2, 3
    target = np.eye(4)
    target[axis, axis], target[axis, 3] = 0.5, -0.25
    shape = [3, 3, 3]
    shape[axis] = 6
    found = resample_label_map(
        Volume(labels[None], np.eye(4)), target, (shape[0], shape[1], shape[2]), nearest_axis=axis
    )
    assert np.array_equal(found.array[0], np.repeat(labels, 2, axis))


def test_the_first_of_equals_wins() -> None:
    equal = torch.ones(3, 2, 2, 2)
    assert not find_winner(iter(equal), (2, 2, 2)).any()


@settings(deadline=None, max_examples=30)
@given(grids(), grids(), st.floats(-100, 100, width=32))
def test_a_constant_stays(source: Any, target: Any, value: float) -> None:
    (shape, affine), (target_shape, target_affine) = source, target
    found = resample_linear(torch.full(shape, value), affine, target_affine, target_shape)
    assert torch.equal(found, torch.full(target_shape, value))


def test_scores_are_left_alone() -> None:
    maps = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    before = maps.clone()
    resample_linear(maps[0], np.eye(4), np.eye(4), (4, 5, 6)).fill_(7)  # whatever is done with the result
    assert torch.equal(maps, before)


@pytest.mark.parametrize("there", ORIENTATIONS)
@pytest.mark.parametrize("here", ["LPI", "ASR"])
def test_labels_survive_any_change_of_axes(make_volume: Any, here: str, there: str) -> None:
    grid = make_volume(orientation=here)
    labels = grid.with_array(np.random.default_rng(0).choice([0, 3, 700], grid.shape).astype(np.int32))
    turned = to_orientation(labels, there)
    moved = resample_label_map(labels, turned.affine, turned.spatial_shape)
    assert moved.array.dtype == np.int32
    assert np.array_equal(moved.array, turned.array)
    assert np.array_equal(resample_label_map(moved, labels.affine, labels.spatial_shape).array, labels.array)


def make_ball(spacing: Any, *, origin: Any = (0.0, 0.0, 0.0), radius_mm: float = 20.0) -> Volume:
    """A ball off the centre of a cube of 48 mm."""
    shape = [round(48 / mm) for mm in spacing]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    world = np.indices(shape) * np.reshape(spacing, (3, 1, 1, 1)) + affine[:3, 3].reshape(3, 1, 1, 1)
    inside = np.linalg.norm(world - np.reshape((23.3, 24.1, 22.7), (3, 1, 1, 1)), axis=0) <= radius_mm
    return Volume(inside[None].astype(np.uint8), affine)


def compute_dice(a: Array, b: Array) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (2.0, 1.0, 2.0), (1.0, 1.0, 2.0)])
def test_a_ball_comes_back_from_twice_the_spacing(spacing: Any) -> None:
    # Where coarse voxels lie exactly between fine ones, ties go to background; these grids have none.
    fine, coarse = make_ball((1.0, 1.0, 1.0)), make_ball(spacing, origin=(0.31, 0.17, 0.23))
    there = resample_label_map(fine, coarse.affine, coarse.spatial_shape)
    back = resample_label_map(there, fine.affine, fine.spatial_shape)
    assert compute_dice(back.array, fine.array) > 0.97
    assert compute_dice(there.array, coarse.array) > 0.97
    volumes_mm3 = [ball.array.sum() * ball.voxel_volume_mm3 for ball in (fine, there, back)]
    assert max(volumes_mm3) < 1.02 * min(volumes_mm3)


@pytest.mark.parametrize("degrees", [1.0, 10.0, 45.0])
@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_rotated_grids_are_refused(degrees: float, axes: tuple[int, int]) -> None:
    a, b = axes
    turned = np.eye(4)
    turned[a, a] = turned[b, b] = np.cos(np.deg2rad(degrees))
    turned[a, b] = -(turned_ba := np.sin(np.deg2rad(degrees)))
    turned[b, a] = turned_ba
    with pytest.raises(GeometryError, match="The two grids are rotated against each other"):
        resample_linear(torch.zeros(2, 3, 4), np.eye(4), turned, (2, 3, 4))


def test_grids_rotated_alike_are_no_trouble() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    axes, scales, shifts = compute_axis_mapping(turn, turn @ np.diag([2.0, 1.0, -1.0, 1.0]))
    assert axes == (0, 1, 2)
    assert scales == pytest.approx((2.0, 1.0, -1.0))
    assert shifts == pytest.approx((0.0, 0.0, 0.0))


@pytest.mark.parametrize(("thickness", "expected"), [(3.0, None), (3.000001, None), (3.01, 2), (2.99, None)])
def test_rounding_does_not_decide_which_slices_are_thick(thickness: float, expected: int | None) -> None:
    assert find_coarse_axis((1.0, 1.0, thickness), (1.0, 1.0, 1.0)) == expected
    assert find_coarse_axis((1.0, 1.0, 1.0), (1.0, 1.0, thickness)) == expected


def test_axis_mapping_by_hand() -> None:
    """Target axis 0 runs backwards along source axis 2 in steps of half a source voxel."""
    source = np.diag([1.0, 1.0, 4.0, 1.0])
    target = np.array([[0, 1.0, 0, 5], [0, 0, 3.0, 0], [-2.0, 0, 0, 8], [0, 0, 0, 1]])
    axes, scales, shifts = compute_axis_mapping(source, target)
    assert axes == (2, 0, 1)
    assert scales == pytest.approx((-0.5, 1.0, 3.0))
    assert shifts == pytest.approx((2.0, 5.0, 0.0))


def test_float32_rounding_of_an_affine_is_no_rotation(make_volume: Any) -> None:
    volume = make_volume()
    rounded = volume.affine.astype(np.float32).astype(np.float64)
    assert compute_axis_mapping(volume.affine, rounded)[0] == (0, 1, 2)


def test_outside_the_source_its_border_goes_on() -> None:
    labels = Volume(np.array([1, 0, 2], np.uint8).reshape(1, 3, 1, 1), np.eye(4))
    affine = np.eye(4)
    affine[0, 3] = -2
    assert resample_label_map(labels, affine, (7, 1, 1)).array.reshape(-1).tolist() == [1, 1, 1, 0, 2, 2, 2]
