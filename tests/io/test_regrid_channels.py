"""A channel that is brought to another grid stays where it is in the world, and says what was done to it."""

from __future__ import annotations

import logging
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import GeometryError
from medunet.io.regrid_channels import compute_coverage, put_channel_on_grid, resample_to_grid
from medunet.volume import Volume, describe_grid, to_orientation

SLOPES = (0.7, -1.3, 2.1)  # intensity per mm along R, A, S


def compute_world(grid: Volume) -> Any:
    """World positions ``(I, J, K, 3)`` of the voxel centres."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.spatial_shape), indexing="ij"), axis=-1)
    return nib.affines.apply_affine(grid.affine, indices)


def make_grid(
    shape: tuple[int, int, int], spacing: Any = (1, 1, 1), *, angles: Any = (0, 0, 0), origin: Any = (0, 0, 0)
) -> Volume:
    matrix = nib.eulerangles.euler2mat(*angles) @ np.diag(np.array(spacing, float))
    return Volume(np.zeros((1, *shape), np.float32), nib.affines.from_matvec(matrix, origin))


def make_ramp(grid: Volume, *, dtype: Any = np.float64) -> Volume:
    """Intensity as a linear function of the place in the world, which linear interpolation must reproduce."""
    return grid.with_array((compute_world(grid) @ SLOPES + 100)[None].astype(dtype))


# ---- where things are ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.sampled_from([-2.4, -0.9, 0.5, 1.3])] * 3),
    origin=st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_every_value_stays_at_its_place(angles: Any, spacing: Any, origin: Any) -> None:
    # The channel is a ball's box around every rotation of the small grid in its middle, so all of it is covered.
    channel = make_ramp(make_grid((40, 31, 22), (0.9, 1.1, 1.7), angles=(0.4, 0.2, -0.3), origin=(-18, -16, -17)))
    grid = make_grid((4, 3, 5), spacing, angles=angles, origin=origin)
    centre = nib.affines.apply_affine(channel.affine, (19.5, 15, 10.5))
    middle = nib.affines.apply_affine(grid.affine, (1.5, 1, 2))
    affine = grid.affine.copy()
    affine[:3, 3] += centre - middle
    grid = Volume(grid.array, affine)
    assert compute_coverage(channel, grid) == 1.0
    resampled = resample_to_grid(channel, grid)
    np.testing.assert_allclose(resampled.array, make_ramp(grid).array, atol=1e-4)
    assert resampled.array.dtype == np.float32
    np.testing.assert_array_equal(resampled.affine, grid.affine)


def test_a_marked_voxel_is_found_where_it_was() -> None:
    channel = make_grid((9, 11, 7), (2, 2, 4), origin=(-10, 5, 20))
    channel.array[0, 3, 8, 2] = 60
    grid = to_orientation(make_grid((36, 44, 28), (0.5, 0.5, 1), origin=(-10.75, 4.25, 18.5)), "SAL")
    resampled = resample_to_grid(channel, grid)
    weights = resampled.array[0] / resampled.array[0].sum()
    centroid = (compute_world(grid) * weights[..., None]).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(centroid, nib.affines.apply_affine(channel.affine, (3, 8, 2)), atol=1e-5)


def test_numbers_by_hand() -> None:
    channel = Volume(np.array([0, 10, 40], np.int16).reshape(1, 3, 1, 1), np.diag([2.0, 5, 5, 1]))
    grid = Volume(np.zeros((1, 9, 1, 1)), nib.affines.from_matvec(np.diag([1.0, 5, 5]), [-2, 0, 0]))
    # Centres at 0, 2 and 4 mm; the field of view runs from -1 to 5 mm, and the border voxel's value holds up to there.
    assert resample_to_grid(channel, grid).array[0, :, 0, 0].tolist() == [0, 0, 0, 5, 10, 25, 40, 40, 0]


def test_outside_the_field_of_view_stands_the_minimum_of_each_channel() -> None:
    values = np.random.default_rng(0).uniform(-900, 50, (2, 4, 5, 6)).astype(np.float32)
    values[1] += 5000
    channel = Volume(values, np.diag([1.0, 1.5, 2, 1]))
    grid = make_grid((10, 5, 6), (1, 1.5, 2), origin=(-3, 0, 0))
    resampled = resample_to_grid(channel, grid).array
    np.testing.assert_array_equal(resampled[:, 3:7], values)
    for index in range(2):
        outside = np.concatenate([resampled[index, :3], resampled[index, 7:]])
        assert (outside == values[index].min()).all()


def test_a_constant_stays_constant() -> None:
    channel = make_grid((7, 8, 9), (1.1, 0.7, 2), angles=(0.3, 0.8, -1))
    constant = channel.with_array(np.full((1, 7, 8, 9), -1024, np.int16))
    grid = make_grid((12, 11, 10), (1, 1, 1), origin=(-4, -4, -4))
    assert 0 < compute_coverage(constant, grid) < 1
    assert (resample_to_grid(constant, grid).array == -1024).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.uint16, np.int32, np.float32])
def test_every_dtype_is_interpolated_without_wrapping(dtype: Any) -> None:
    channel = Volume(np.array([0, 251], dtype).reshape(1, 2, 1, 1), np.eye(4))
    half = Volume(np.zeros((1, 1, 1, 1)), nib.affines.from_matvec(np.eye(3), [0.5, 0, 0]))
    assert resample_to_grid(channel, half).array.item() == 125.5


# ---- how much is covered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "expected"), [(0, 1.0), (0.5, 1.0), (0.51, 0.75), (2, 0.5), (-3, 0.25), (3.6, 0), (-40, 0)]
)
def test_coverage_counts_centres_within_the_voxel_edges(shift: float, expected: float) -> None:
    channel = make_grid((4, 3, 2), (1, 1, 3))
    assert compute_coverage(channel, make_grid((4, 3, 2), (1, 1, 3), origin=(shift, 0, 0))) == expected


def test_rounding_of_an_affine_costs_no_plane() -> None:
    channel = make_grid((4, 3, 2), (0.3, 0.3, 0.3))
    edges = make_grid((5, 4, 3), (0.3, 0.3, 0.3), origin=(-0.15,) * 3)  # each centre on an edge of the channel's voxels
    rounded = Volume(edges.array, edges.affine.astype(np.float32))
    assert rounded.affine[0, 3] < -0.15
    assert compute_coverage(channel, rounded) == 1.0


def test_coverage_of_an_oblique_grid() -> None:
    channel = make_grid((21, 21, 21), origin=(-10, -10, -10))
    grid = make_grid((41, 41, 1), (0.5, 0.5, 1), angles=(np.pi / 4, 0, 0), origin=(0, 0, 0))
    moved = Volume(grid.array, grid.affine @ nib.affines.from_matvec(np.eye(3), [-20, -20, 0]))
    world = compute_world(moved)
    expected = (np.abs(world) <= 10.501).all(axis=-1).mean()
    assert compute_coverage(channel, moved) == expected
    assert 0.8 < expected < 1  # the corners of the turned square stick out


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_the_same_grid_is_left_alone(make_volume: Any, caplog: pytest.LogCaptureFixture) -> None:
    channel = make_volume(dtype=np.int16, seed=1)
    assert put_channel_on_grid(channel, make_volume(), "adc.nii", "t2.nii") is channel
    assert not caplog.records


def test_other_axes_are_turned_without_interpolation(make_volume: Any, caplog: pytest.LogCaptureFixture) -> None:
    grid = make_volume(dtype=np.int16)
    channel = put_channel_on_grid(to_orientation(grid, "SAR"), grid, "adc.nii", "t2.nii")
    np.testing.assert_array_equal(channel.array, grid.array)
    assert channel.array.dtype == np.int16
    assert not caplog.records


def test_resampling_is_said_with_both_grids_and_the_share(caplog: pytest.LogCaptureFixture) -> None:
    channel, grid = make_ramp(make_grid((4, 4, 4))), make_grid((8, 4, 4), (1, 1, 1))
    put_channel_on_grid(channel, grid, "adc.nii", "t2.nii")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        f"adc.nii is resampled to the grid of t2.nii: {describe_grid(grid)}, from {describe_grid(channel)}; it covers "
        "50.0 % of that grid, the rest takes its minimum."
    )


def test_grids_that_do_not_meet_are_refused() -> None:
    channel, grid = make_grid((4, 4, 4)), make_grid((4, 4, 4), origin=(100, 0, 0))
    with pytest.raises(
        GeometryError, match=r"^adc\.nii and t2\.nii do not overlap anywhere: shape 4x4x4, .* against sh"
    ):
        put_channel_on_grid(channel, grid, "adc.nii", "t2.nii")
    with pytest.raises(GeometryError, match="do not overlap anywhere"):
        resample_to_grid(channel, grid)
