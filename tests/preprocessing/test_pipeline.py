"""Whatever the scan's orientation and spacing, what lies at a place in the world still lies there, at the right value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ORACLE_TASK, build_plan_for

from medunet.planning import Normalization, Plan
from medunet.preprocessing import compute_fill, from_metatensor, preprocess_image, preprocess_labels, to_metatensor
from medunet.preprocessing.pipeline import compute_target_grid
from medunet.tasks import Task
from medunet.volume import Array, Volume, to_orientation

ORIENTATIONS = ["RAS", "LPI", "LAS", "PIR", "SAL", "IPR", "ASL", "RIP"]


def build_plan(
    spacing: Any = (1.0, 1.0, 1.0), *, modality: str = "CT", rules: tuple[Normalization, ...] | None = None
) -> Plan:
    rules = rules or (Normalization(rule="none"),)
    content = {"name": "x", "title": "x", "labels": {"a": 1}, "intensity": "none"}
    task = Task.model_validate(content | {"modality": modality, "channels": [f"c{n}" for n in range(len(rules))]})
    return build_plan_for(task, spacing, (8, 8, 8)).model_copy(update={"normalization": rules})


def make_blob(spacing: Any, orientation: str, *, origin: Any = (-31.0, 12.5, 40.25)) -> Volume:
    """A smooth blob of 1000 HU on nothing, in a box of about 60 mm of soft tissue, first in RAS and then turned."""
    shape = [round(60 / mm) + axis for axis, mm in enumerate(spacing)]  # never a cube
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    mm = np.indices(shape) * np.reshape(spacing, (3, 1, 1, 1))
    distance = np.linalg.norm(mm - np.reshape((27.0, 33.0, 30.0), (3, 1, 1, 1)), axis=0)
    blob = 1000 * np.exp(-0.5 * (distance / 6) ** 2)
    return to_orientation(Volume(blob[None].astype(np.float32), affine), orientation)


def compute_centroid(volume: Volume) -> Array:
    weights = volume.array[0].astype(np.float64)
    indices = np.indices(weights.shape).reshape(3, -1)
    centre = indices @ weights.reshape(-1) / weights.sum()
    result: Array = volume.affine[:3, :3] @ centre + volume.affine[:3, 3]
    return result


# ---- geometry ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.floats(0.9, 2.6)] * 3), st.tuples(*[st.floats(0.9, 2.6)] * 3), st.sampled_from(ORIENTATIONS))
def test_a_blob_stays_where_it_is(spacing: Any, target: Any, orientation: str) -> None:
    scan = make_blob(spacing, orientation)
    image = preprocess_image(scan, build_plan(target))
    assert image.orientation == "RAS"
    assert image.spacing == pytest.approx(target, rel=2e-4)
    assert np.linalg.norm(compute_centroid(image) - compute_centroid(scan)) < 0.1
    assert np.linalg.norm(compute_centroid(scan) - (-31.0 + 27, 12.5 + 33, 40.25 + 30)) < 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("thick", "target"), [(6.0, 3.0), (6.0, 2.0), (5.0, 4.0)])
def test_thick_slices_are_not_blended(axis: int, thick: float, target: float) -> None:
    """nnU-Net's rule: beyond 3 x anisotropy the nearest slice is taken; in its plane the blob stays where it is."""
    spacing, wanted = [1.0, 1.0, 1.0], [0.9, 1.1, 1.2]
    spacing[axis], wanted[axis] = thick, target
    scan = make_blob(tuple(spacing), "LPI")
    image = preprocess_image(scan, build_plan(tuple(wanted)))
    error = np.abs(compute_centroid(image) - compute_centroid(scan))
    assert np.delete(error, axis).max() < 0.05
    assert error[axis] < thick / 2
    sums = np.moveaxis(image.array[0], axis, 0).reshape(image.spatial_shape[axis], -1).sum(1)
    ras = to_orientation(scan)
    positions = (np.arange(len(sums)) + 0.5) * target / thick  # the first voxel of both begins at the same place
    if len(sums) * target == ras.spatial_shape[axis] * thick:
        own = np.moveaxis(ras.array[0], axis, 0).reshape(ras.spatial_shape[axis], -1).sum(1)
        nearest = own[np.clip(np.floor(positions).astype(int), 0, len(own) - 1)]
        assert np.corrcoef(sums, nearest)[0, 1] > 0.999
        assert len(np.unique(sums.round(1))) <= len(own)


@pytest.mark.parametrize(
    ("length", "old", "new", "expected"), [(10, 2.0, 1.0, 20), (10, 1.0, 3.0, 3), (1, 1.0, 9.0, 1)]
)
def test_the_grid_covers_the_same_box(make_volume: Any, length: int, old: float, new: float, expected: int) -> None:
    """nnU-Net's number of voxels, and the same middle."""
    scan = make_volume(shape=(length, 7, 9), spacing=(old, 1.0, 2.0), orientation="RAS")
    shape, affine = compute_target_grid(scan, (new, 1.0, 2.0))
    assert shape == (expected, 7, 9)
    middles = [
        grid[:3, :3] @ ((np.array(size) - 1) / 2) + grid[:3, 3]
        for grid, size in ((scan.affine, scan.spatial_shape), (affine, shape))
    ]
    assert middles[0] == pytest.approx(middles[1], abs=1e-9)


def test_a_header_that_rounds_the_spacing_changes_no_voxel(make_volume: Any) -> None:
    scan = make_volume(shape=(40, 7, 9), spacing=(0.9765625, 1.0, 2.0), orientation="RAS")
    image = preprocess_image(scan, build_plan((0.97656, 1.0, 2.0)))
    assert np.array_equal(image.array, scan.array)
    assert np.array_equal(image.affine, scan.affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_in_the_file_does_not_matter(orientation: str) -> None:
    plan = build_plan((1.5, 1.0, 2.0))
    usual = preprocess_image(make_blob((1.0, 1.5, 2.0), "RAS"), plan)
    other = preprocess_image(make_blob((1.0, 1.5, 2.0), orientation), plan)
    assert np.allclose(other.affine, usual.affine, atol=1e-6)
    assert np.allclose(other.array, usual.array, atol=1e-2)


@pytest.mark.parametrize("degrees", [3.0, 20.0])
def test_an_oblique_scan_stays_where_it_is(degrees: float) -> None:
    scan = make_blob((1.0, 1.5, 2.0), "LPI")
    turn = np.eye(4)
    turn[0, 0] = turn[2, 2] = np.cos(np.deg2rad(degrees))
    turn[0, 2], turn[2, 0] = np.sin(np.deg2rad(degrees)), -np.sin(np.deg2rad(degrees))
    oblique = Volume(scan.array, turn @ scan.affine)
    image = preprocess_image(oblique, build_plan((1.2, 1.2, 1.2)))
    assert np.linalg.norm(compute_centroid(image) - compute_centroid(oblique)) < 0.1
    labels = preprocess_labels(oblique.with_array((scan.array > 500).astype(np.uint8)), image)
    assert np.linalg.norm(compute_centroid(labels) - compute_centroid(image)) < 0.3


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(1.0, 1.5, 2.0), (2.0, 0.9, 1.1)])
def test_labels_stay_with_their_image(orientation: str, spacing: Any) -> None:
    scan = make_blob(spacing, orientation)
    image = preprocess_image(scan, build_plan((1.3, 1.3, 1.3)))
    labels = preprocess_labels(scan.with_array((scan.array > 500).astype(np.uint8)), image)
    assert np.array_equal(labels.affine, image.affine)
    assert labels.shape == image.shape
    by_image = image.array > 500
    dice = 2 * (by_image & (labels.array == 1)).sum() / (by_image.sum() + labels.array.sum())
    assert dice > 0.93  # a ball of 7 mm radius on voxels of 1.3 mm; nearest neighbour gives 0.924
    assert np.linalg.norm(compute_centroid(labels) - compute_centroid(image)) < 0.2


@pytest.mark.parametrize("mm", [1.6, 2.5, 3.3])
def test_labels_show_the_slices_that_their_image_shows(mm: float) -> None:
    """Onto slices of twice the thickness every position lies halfway, and the last digit of an affine would decide."""
    rng = np.random.default_rng(0)
    for num_slices, first in ((37, 3), (52, 8), (23, 0), (44, 5)):
        numbers = np.maximum(np.arange(num_slices) - first - 1, 0)  # zeros below the body, then the slice's number
        affine = np.diag([0.5, 0.5, mm, 1.0])
        affine[:3, 3] = rng.uniform(-300, 300, 3)
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
        for placed in (affine, turn @ affine):
            scan = Volume(np.broadcast_to(numbers, (1, 6, 7, num_slices)).astype(np.float32), placed)
            image = preprocess_image(scan, build_plan((0.5, 0.5, 2 * mm), modality="MR"))
            labels = preprocess_labels(scan.with_array(scan.array.astype(np.uint8)), image)
            assert labels.array[0, 3, 3].tolist() == image.array[0, 3, 3].tolist()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_at_the_scans_own_spacing_nothing_is_interpolated(make_volume: Any, orientation: str) -> None:
    scan = make_volume(orientation=orientation)
    ras = to_orientation(scan)
    image = preprocess_image(scan, build_plan(ras.spacing))
    assert np.allclose(image.array, ras.array, atol=1e-3)
    classes = scan.with_array(np.random.default_rng(0).integers(0, 4, scan.shape).astype(np.uint8))
    assert np.array_equal(preprocess_labels(classes, image).array, to_orientation(classes).array)


@pytest.mark.parametrize(("modality", "air"), [("CT", -1000.0), ("MR", 0.0)])
@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_the_whole_body_is_kept(modality: str, air: float, orientation: str) -> None:
    """A body in a corner of much air: the corner and a margin of 8 mm are left."""
    array = np.full((1, 60, 50, 40), air, np.float32)
    array[:, 2:9, 20:33, 30:40] = 100.0
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    scan = Volume(array, affine)
    image = preprocess_image(to_orientation(scan, orientation), build_plan((2.0, 1.0, 3.0), modality=modality))
    # 8 mm are 4, 8 and 3 voxels; the scan ends at 0 and 40.
    assert np.array_equal(image.array, array[:, 0:13, 12:41, 27:40])
    assert image.affine[:3, 3] == pytest.approx((0.0, 12.0, 81.0))
    assert (image.array == 100).sum() == (array == 100).sum()


def test_a_scan_of_air_is_kept_whole() -> None:
    scan = Volume(np.full((1, 6, 7, 8), -1000, np.int16), np.eye(4))
    image = preprocess_image(scan, build_plan())
    assert image.shape == scan.shape
    assert (image.array == -1000).all()


# ---- intensities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.3, 1.9)])
@pytest.mark.parametrize("value", [-400.0, 0.1, 3071.0])
def test_a_constant_stays(make_volume: Any, spacing: Any, value: float) -> None:
    scan = make_volume()
    image = preprocess_image(scan.with_array(np.full(scan.shape, value, np.float32)), build_plan(spacing))
    assert np.allclose(image.array, value, rtol=1e-6)


def test_a_constant_has_no_deviation(make_volume: Any) -> None:
    scan = make_volume()
    plan = build_plan(modality="MR", rules=(Normalization(rule="zscore"),))
    assert np.abs(preprocess_image(scan.with_array(np.full(scan.shape, 7.0, np.float32)), plan).array).max() < 1


def test_zscore_by_hand() -> None:
    """1, 2 and 3 in equal parts: mean 2, sample variance 2 n / 3 / (n - 1)."""
    array = np.repeat([1.0, 2.0, 3.0], 32).reshape(1, 6, 4, 4).astype(np.float32)
    plan = build_plan(modality="MR", rules=(Normalization(rule="zscore"),))
    image = preprocess_image(Volume(array, np.eye(4)), plan)
    assert np.allclose(image.array, (array - 2) / np.sqrt(64 / 95), atol=1e-6)


def test_zscore_within_nonzero_voxels_by_hand() -> None:
    """A shell of 1 and 3 around a hole: the hole belongs to it, the zeros around it stay 0."""
    array = np.zeros((2, 20, 20, 20), np.float32)
    array[0, 5:15, 5:15, 5:15] = 1.0
    array[0, 5:15, 5:15, 5:10] = 3.0
    array[0, 8:11, 8:11, 8:12] = 0.0
    array[1] = array[0] * 10
    is_inside = np.zeros((20, 20, 20), bool)
    is_inside[5:15, 5:15, 5:15] = True
    rules = (Normalization(rule="zscore", nonzero_only=True), Normalization(rule="zscore"))
    scan = Volume(array, np.eye(4))
    image = preprocess_image(scan, build_plan(modality="MR", rules=rules))
    assert image.shape == array.shape  # the margin of 8 mm reaches the borders
    inside = array[0][is_inside]
    expected = np.where(is_inside, (array[0] - inside.mean()) / inside.std(ddof=1), 0.0)
    assert np.allclose(image.array[0], expected, atol=1e-5)
    assert (image.array[0][~is_inside] == 0).all()
    assert np.allclose(image.array[1], (array[1] - array[1].mean()) / array[1].std(ddof=1), atol=1e-4)
    plan = build_plan(modality="MR", rules=rules)
    assert compute_fill(image.array, plan).tolist() == pytest.approx([0.0, image.array[1].min()])


def test_what_is_outside_the_window_does_not_bleed_in() -> None:
    """Metal of 20,000 HU is clipped before anything is interpolated."""
    array = np.full((1, 20, 20, 20), 50.0, np.float32)
    array[0, 10, 10, 10] = 20_000.0
    rule = Normalization(rule="ct-window", lower=-200, upper=300, mean=50, std=100)
    image = preprocess_image(Volume(array, np.eye(4)), build_plan((1.4, 1.4, 1.4), rules=(rule,)))
    assert 1.0 < image.array.max() < 2.6  # at most what 300 HU give, and less where it lies between voxels
    assert image.array.min() > -0.7  # the spline's undershoot beside it


def test_zscore_is_of_the_body_box_and_each_channel() -> None:
    array = np.zeros((2, 60, 6, 6), np.float32)
    array[:, 40:] = np.random.default_rng(0).normal(50, 7, (2, 20, 6, 6))
    array[1] *= 100
    plan = build_plan(modality="MR", rules=(Normalization(rule="zscore"),) * 2)
    image = preprocess_image(Volume(array, np.eye(4)), plan)
    assert image.spatial_shape == (28, 6, 6)
    assert np.allclose(image.array.mean((1, 2, 3)), 0, atol=1e-5)
    assert np.allclose(image.array.std((1, 2, 3), ddof=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Normalization(rule="ct-window", lower=-200, upper=350, mean=75, std=275), [-1, -1, 0, 1, 1]),
        (Normalization(rule="ct-percentile", lower=-50, upper=95, mean=50, std=20), [-5, -5, 1.25, 2.25, 2.25]),
        (Normalization(rule="none"), [-1000, -200, 75, 350, 2000]),
    ],
)
def test_ct_rules_by_hand(rule: Normalization, expected: list[float]) -> None:
    array = np.array([-1000, -200, 75, 350, 2000], np.int16).reshape(1, 5, 1, 1)
    image = preprocess_image(Volume(array, np.eye(4)), build_plan(rules=(rule,)))
    assert image.array.dtype == np.float32
    assert image.array.reshape(-1).tolist() == pytest.approx(expected)


# ---- the caller's voxels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["RAS", "LPI"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float64])
@pytest.mark.parametrize("rule", ["zscore", "none"])
def test_the_scan_is_left_alone(make_volume: Any, orientation: str, dtype: Any, rule: Any) -> None:
    """Also where nothing is to be turned, cropped, resampled or converted, so that nothing makes a copy."""
    scan = make_volume(orientation=orientation, dtype=dtype)
    before, affine = scan.array.copy(), scan.affine.copy()
    plan = build_plan(to_orientation(scan).spacing, modality="MR", rules=(Normalization(rule=rule),))
    image = preprocess_image(scan, plan)
    image.array[:] = -7
    image.affine[:] = -7
    assert np.array_equal(scan.array, before)
    assert np.array_equal(scan.affine, affine)


def test_read_only_voxels_are_taken(make_volume: Any) -> None:
    scan = make_volume()
    scan.array.flags.writeable = False
    assert preprocess_image(scan, build_plan()).num_channels == 1


def test_to_metatensor_and_back(make_volume: Any) -> None:
    volume = make_volume(num_channels=2)
    back = from_metatensor(to_metatensor(volume))
    assert np.array_equal(back.array, volume.array)
    assert np.array_equal(back.affine, volume.affine)


def test_much_finer_voxels_are_thinned_and_stay_where_they_are(make_volume: Any) -> None:
    # Smooth in space: what a coarse grid sees does not depend on the voxels in between.
    grid = make_volume(shape=(120, 90, 70), spacing=(0.5, 0.5, 1.0), orientation="RAS")
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.spatial_shape), indexing="ij"), -1)
    world = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    scan = grid.with_array((world @ [3.0, -2.0, 1.5] + 500).astype(np.float32)[None])
    plan = build_plan_for(ORACLE_TASK, (6.0, 6.0, 6.0), (8, 8, 8))
    prepared = preprocess_image(scan, plan)
    places = np.stack(np.meshgrid(*map(np.arange, prepared.spatial_shape), indexing="ij"), -1)
    expected = (places @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]) @ [3.0, -2.0, 1.5] + 500
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(prepared.array[0][inside], expected[inside], atol=0.1)
