"""Voxels and their place belong together."""

from __future__ import annotations

import itertools
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import GeometryError, VolumeError
from medunet.volume import (
    Volume,
    align_to_grid,
    check_same_grid,
    compute_grid_distance_mm,
    describe_grid,
    to_orientation,
)

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["LR", "PA", "IS"]) for letters in itertools.product(*axes)
]


def find_world(volume: Volume, value: float) -> Any:
    (voxel,) = np.argwhere(volume.array[0] == value)
    return nib.affines.apply_affine(volume.affine, voxel)


def move(volume: Volume, *mm: float) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += mm
    return Volume(volume.array, affine)


# ---- what a volume is ------------------------------------------------------------------------------------------------


def test_shape_spacing_and_size(make_volume: Any) -> None:
    volume = make_volume(shape=(3, 4, 5), spacing=(0.5, 2.0, 3.0), num_channels=2)
    assert volume.shape == (2, 3, 4, 5)
    assert volume.spatial_shape == (3, 4, 5)
    assert volume.num_channels == 2
    assert volume.spacing == pytest.approx((0.5, 2.0, 3.0))
    assert volume.voxel_volume_mm3 == pytest.approx(3.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_read_off_the_affine(make_volume: Any, orientation: str) -> None:
    volume = make_volume(orientation=orientation)
    assert volume.orientation == orientation
    # By hand: the letter of an axis says where its index grows to.
    axis = orientation.replace("L", "R").replace("P", "A").replace("I", "S").index("R")
    assert (volume.affine[0, axis] > 0) == ("R" in orientation)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 5, 1), (1, 0, 4, 5), (0, 3, 4, 5)])
def test_other_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(VolumeError, match=r"needs an array \(channels, I, J, K\) without empty axes; got shape"):
        Volume(np.zeros(shape), np.eye(4))


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(3),
        np.diag([1, 1, 0, 1]),
        np.diag([1, np.nan, 1, 1]),
        np.diag([1, 1, np.inf, 1]),
        nib.affines.from_matvec([[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        nib.affines.from_matvec(np.eye(3), [1, 2, 3]).T,
        np.diag([1, 1, 1, 2]),
    ],
)
def test_unusable_affines_are_refused(affine: Any) -> None:
    with pytest.raises(VolumeError, match="needs a finite, invertible 4x4 affine with the last row 0, 0, 0, 1; got"):
        Volume(np.zeros((1, 2, 3, 4)), affine)


@pytest.mark.parametrize("spacing_mm", [4e-6, 1e-3, 1.0, 1e3])
def test_any_voxel_size_is_fine(spacing_mm: float) -> None:
    volume = Volume(np.zeros((1, 2, 3, 4)), np.diag([spacing_mm] * 3 + [1.0]))
    assert volume.spacing == pytest.approx((spacing_mm,) * 3)


def test_affine_becomes_float64() -> None:
    assert Volume(np.zeros((1, 2, 3, 4)), np.eye(4, dtype=np.float32)).affine.dtype == np.float64


def test_with_array_keeps_the_grid(make_volume: Any) -> None:
    volume = make_volume()
    other = volume.with_array(np.ones((3, *volume.spatial_shape)))
    assert other.num_channels == 3
    np.testing.assert_array_equal(other.affine, volume.affine)


def test_with_array_refuses_another_grid(make_volume: Any) -> None:
    with pytest.raises(GeometryError, match=r"has the grid \(1, 2, 3\), the volume has \(17, 22, 31\)"):
        make_volume().with_array(np.ones((1, 1, 2, 3)))


# ---- two grids -------------------------------------------------------------------------------------------------------


def test_distance_of_a_grid_to_itself_is_zero(make_volume: Any) -> None:
    assert compute_grid_distance_mm(make_volume(), make_volume(seed=1)) == 0


def test_distance_of_a_shift_is_its_length(make_volume: Any) -> None:
    volume = make_volume()
    assert compute_grid_distance_mm(volume, move(volume, 3, 0, -4)) == pytest.approx(5)


def test_distance_of_another_spacing_is_that_of_the_far_corner() -> None:
    array = np.zeros((1, 11, 2, 2))
    assert compute_grid_distance_mm(Volume(array, np.eye(4)), Volume(array, np.diag([1.5, 1, 1, 1]))) == pytest.approx(
        5
    )


def test_distance_sees_a_flip_about_the_own_centre() -> None:
    array = np.zeros((1, 11, 2, 2))
    flipped = nib.affines.from_matvec(np.diag([-1, 1, 1]), [10, 0, 0])
    assert compute_grid_distance_mm(Volume(array, np.eye(4)), Volume(array, flipped)) == pytest.approx(10)


def test_distance_of_other_shapes_is_infinite(make_volume: Any) -> None:
    assert compute_grid_distance_mm(make_volume(shape=(3, 4, 5)), make_volume(shape=(3, 4, 6))) == float("inf")


def test_distance_is_symmetric(make_volume: Any) -> None:
    volume, other = make_volume(orientation="RAS"), make_volume(orientation="LAS")
    assert compute_grid_distance_mm(volume, other) == compute_grid_distance_mm(other, volume) > 0


@pytest.mark.parametrize("shift_mm", [0.0, 0.009])
def test_rounding_of_a_header_is_the_same_grid(make_volume: Any, shift_mm: float) -> None:
    check_same_grid(make_volume(), move(make_volume(), shift_mm, 0, 0), "scan", "mask")


def test_a_moved_grid_is_refused_with_both(make_volume: Any) -> None:
    volume = make_volume()
    with pytest.raises(GeometryError) as caught:
        check_same_grid(volume, move(volume, 0, 0, 2), "scan.nii", "mask.nii")
    message = str(caught.value)
    assert message.startswith("scan.nii and mask.nii lie on different grids (corners are up to 2.00 mm apart): ")
    assert f"{describe_grid(volume)} against {describe_grid(move(volume, 0, 0, 2))}" in message
    assert message.endswith("Resample one onto the other first.")


def test_another_shape_is_refused_without_a_distance(make_volume: Any) -> None:
    with pytest.raises(GeometryError, match=r"lie on different grids: shape 3x4x5, .* against shape 3x4x6"):
        check_same_grid(make_volume(shape=(3, 4, 5)), make_volume(shape=(3, 4, 6)), "a", "b")


def test_the_tolerance_shrinks_with_tiny_voxels() -> None:
    volume = Volume(np.zeros((1, 2, 3, 4)), np.diag([0.001, 0.001, 0.001, 1]))
    with pytest.raises(GeometryError, match="lie on different grids"):
        check_same_grid(volume, move(volume, 0.001, 0, 0), "a", "b")


def test_describe_grid() -> None:
    volume = Volume(np.zeros((1, 2, 3, 4)), nib.affines.from_matvec(np.diag([-0.75, 1, 2.5]), [1, -2, 3.14159]))
    assert describe_grid(volume) == "shape 2x3x4, spacing 0.75x1x2.5 mm, orientation LAS, origin (1.00, -2.00, 3.14)"


# ---- orientation -----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    flip=st.sampled_from([-1, 1]),
    orientation=st.sampled_from(ORIENTATIONS),
    voxel=st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 6)),
)
def test_a_marked_voxel_keeps_its_world_position(
    angles: Any, spacing: Any, flip: int, orientation: str, voxel: tuple[int, int, int]
) -> None:
    array = np.zeros((1, 3, 5, 7), np.int16)
    array[(0, *voxel)] = 7
    matrix = nib.eulerangles.euler2mat(*angles) @ np.diag(np.multiply(spacing, (flip, 1, 1)))
    volume = Volume(array, nib.affines.from_matvec(matrix, (-31, 12.5, 40.25)))
    turned = to_orientation(volume, orientation)
    np.testing.assert_allclose(find_world(turned, 7), find_world(volume, 7), atol=1e-9)
    assert turned.orientation == orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_there_and_back_again(make_volume: Any, orientation: str) -> None:
    volume = make_volume(shape=(3, 5, 7), orientation="LPI", num_channels=2)
    again = to_orientation(to_orientation(volume, orientation), "LPI")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-12)


def test_channels_and_dtype_survive(make_volume: Any) -> None:
    turned = to_orientation(make_volume(shape=(3, 5, 7), orientation="SLP", num_channels=2, dtype=np.int16), "RAS")
    assert turned.shape == (2, 5, 7, 3)
    assert turned.array.dtype == np.int16


# ---- the same grid along other axes ----------------------------------------------------------------------------------


def turn(volume: Volume, axes: tuple[int, int, int], signs: tuple[int, int, int]) -> Volume:
    """The same voxels at the same places, stored along other axes; written out voxel index by voxel index."""
    shape = tuple(volume.spatial_shape[axis] for axis in axes)
    back = np.zeros((4, 4))  # index in the turned array -> index in the volume
    back[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        back[old, new] = sign
        back[old, 3] = 0 if sign > 0 else volume.spatial_shape[old] - 1
    turned = np.empty((volume.num_channels, *shape), volume.array.dtype)
    for voxel in np.ndindex(*shape):
        i, j, k = (back @ [*voxel, 1])[:3].astype(int)
        turned[(slice(None), *voxel)] = volume.array[:, i, j, k]
    return Volume(turned, volume.affine @ back)


def make_oblique(shape: tuple[int, int, int] = (3, 5, 4), *, angles: Any = (0.4, -0.7, 0.55)) -> Volume:
    """Every voxel has a value of its own, in two channels; the rotation is far from any axis."""
    array = np.arange(2 * np.prod(shape), dtype=np.int16).reshape(2, *shape)
    matrix = nib.eulerangles.euler2mat(*angles) @ np.diag((0.7, 1.2, -3.0))
    return Volume(array, nib.affines.from_matvec(matrix, (-31, 12.5, 40.25)))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("shape", [(3, 5, 4), (4, 4, 4)])  # equal sizes hide nothing: the affine decides
def test_a_mask_along_any_axes_comes_back_voxel_for_voxel(axes: Any, signs: Any, shape: Any) -> None:
    grid = make_oblique(shape)
    mask = turn(grid, axes, signs)
    aligned = align_to_grid(mask, grid, "mask.nii", "scan")
    np.testing.assert_array_equal(aligned.array, grid.array)
    np.testing.assert_allclose(aligned.affine, grid.affine, atol=1e-12)
    assert aligned.array.flags.c_contiguous
    assert aligned.array.dtype == np.int16


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    axes=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
def test_alignment_needs_no_near_axis(angles: Any, axes: Any, signs: Any) -> None:
    grid = make_oblique((2, 3, 2), angles=angles)
    mask = turn(grid, tuple(axes), signs)
    # A header of single precision, as masks that were saved in between have.
    mask = Volume(mask.array, mask.affine.astype(np.float32))
    np.testing.assert_array_equal(align_to_grid(mask, grid, "mask", "scan").array, grid.array)


def test_what_lies_right_already_is_not_copied() -> None:
    grid = make_oblique()
    mask = Volume(grid.array + 1, grid.affine)
    assert align_to_grid(mask, grid, "mask", "scan") is mask


def test_a_turned_mask_that_is_shifted_is_refused() -> None:
    grid = make_oblique()
    mask = move(turn(grid, (2, 0, 1), (1, -1, 1)), 0.35, 0, 0)
    with pytest.raises(
        GeometryError, match=r"^mask\.nii \(axes turned to \w{3}\) and scan lie .* up to 0\.35 mm apart"
    ):
        align_to_grid(mask, grid, "mask.nii", "scan")


def test_a_mirrored_mask_is_refused_and_not_mirrored_back() -> None:
    grid = make_oblique()
    mirrored = Volume(grid.array, grid.affine @ np.diag([-1.0, 1, 1, 1]))  # the flip without the shift of the origin
    with pytest.raises(GeometryError, match=r"lie on different grids \(corners are up to 1\.40 mm apart\)"):
        align_to_grid(mirrored, grid, "mask.nii", "scan")


@pytest.mark.parametrize("angle", [0.1, np.pi / 4, 0.8])
def test_a_rotated_mask_is_refused(angle: float) -> None:
    grid = make_oblique((4, 4, 4))
    rotation = nib.affines.from_matvec(nib.eulerangles.euler2mat(angle, 0, 0))
    with pytest.raises(GeometryError, match="lie on different grids"):
        align_to_grid(Volume(grid.array, rotation @ grid.affine), grid, "mask", "scan")


def test_a_mask_with_a_slice_too_many_is_refused() -> None:
    grid = make_oblique((3, 5, 4))
    with pytest.raises(GeometryError, match=r"shape 3x5x5.* against shape 3x5x4"):
        align_to_grid(Volume(np.zeros((1, 5, 3, 5)), grid.affine[:, [1, 0, 2, 3]]), grid, "mask", "scan")
