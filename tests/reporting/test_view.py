"""A scan made ready for the viewer: every shown voxel keeps its value and its place, and what is left out is said."""

from __future__ import annotations

import gzip
import math
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medunet.errors import GeometryError, InputError, LabelError
from medunet.reporting.view import View, build_small_view, build_view, choose_steps, rename_masks
from medunet.volume import Volume, to_orientation


def read(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Voxels as a reader scales them, and the affine."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.get_fdata()), np.asarray(image.affine)


def list_world(array: np.ndarray, affine: np.ndarray) -> dict[tuple[float, ...], float]:
    voxels = np.argwhere(np.ones(array.shape, bool))
    places = voxels @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(place): float(value) for place, value in zip(places.round(3).tolist(), array.ravel(), strict=True)}


def make_whole(make_volume: Any, **options: Any) -> Volume:
    volume: Volume = make_volume(**options)
    return volume.with_array(np.rint(volume.array * 5).astype(np.int16))


def tilt(volume: Volume) -> Volume:
    angle = np.deg2rad(9)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Volume(volume.array, turn @ volume.affine)


@pytest.mark.parametrize("orientation", ["LPI", "RAS", "SRP"])
@pytest.mark.parametrize("max_voxels", [10_000_000, 900])
def test_every_voxel_that_is_shown_keeps_value_and_place(make_volume: Any, orientation: str, max_voxels: int) -> None:
    scan = tilt(make_whole(make_volume, orientation=orientation))
    view = build_view(scan, max_voxels=max_voxels)
    array, affine = read(view.nifti)
    assert affine == pytest.approx(view.affine, abs=1e-4)
    assert array.shape == view.shape
    shown = list_world(array, view.affine)
    everything = list_world(scan.array[0], scan.affine)
    assert shown.items() <= everything.items()
    assert len(shown) == (scan.array.size if max_voxels > 900 else math.prod(view.shape)) > 300
    assert bool(view.notes) == (max_voxels == 900)


def test_axes_run_along_right_anterior_superior(make_volume: Any) -> None:
    view = build_view(make_whole(make_volume, orientation="PIL"))
    assert nib.aff2axcodes(view.affine) == ("R", "A", "S")


def test_thick_slices_stay() -> None:
    assert choose_steps((512, 512, 100), (0.7, 0.7, 3.0), 26_214_400) == (1, 1, 1)
    assert choose_steps((512, 512, 100), (0.7, 0.7, 3.0), 26_214_399) == (2, 1, 1)
    assert choose_steps((512, 512, 100), (0.7, 0.7, 3.0), 1_000_000) == (5, 5, 2)
    assert choose_steps((5000, 10, 1), (0.1, 0.1, 1.0), 10**9) == (3, 1, 1)
    assert choose_steps((3, 4, 5), (1.0, 1.0, 1.0), 1) == (3, 4, 5)


def test_what_is_left_out_is_said(make_volume: Any) -> None:
    scan = make_whole(make_volume, shape=(40, 30, 8), spacing=(1.0, 1.0, 4.0), orientation="RAS")
    mask = np.zeros(scan.shape, np.uint8)
    mask[0, 10:14, 10:20, 4] = 1
    view = build_view(scan, scan.with_array(mask), max_voxels=1_000, crop_margin_mm=5.0)
    assert view.shape == (14, 10, 5)
    assert view.notes == (
        "Cropped around the labels: 14 × 20 × 5 of 40 × 30 × 8 voxels are shown.",
        "Reduced: of 14 × 20 × 5 voxels only every 2nd from back to front is shown; volumes are exact.",
    )
    assert view.masks[0].volumes_ml == pytest.approx((40 * 4 / 1000,))
    codes, affine = read(view.masks[0].nifti)
    assert affine == pytest.approx(view.affine)
    marked = {place for place, code in list_world(codes, view.affine).items() if code}
    world = {place for place, label in list_world(mask[0], scan.affine).items() if label}
    assert len(marked) == 20
    assert marked < world  # every second voxel, each at its own place
    assert list_world(read(view.nifti)[0], view.affine).items() <= list_world(scan.array[0], scan.affine).items()


def test_without_a_label_the_scan_is_shown_whole(make_volume: Any) -> None:
    scan = make_whole(make_volume)
    view = build_view(scan, scan.with_array(np.zeros(scan.shape, np.uint8)), labels={"a": [1]}, crop_margin_mm=1.0)
    assert sorted(view.shape) == sorted(scan.spatial_shape)
    assert view.notes == ()
    assert view.start == tuple(n // 2 for n in view.shape)
    assert (view.labels, view.masks[0].volumes_ml, view.masks[0].members) == (("a",), (0.0,), ())


def test_masks_keep_their_places_whatever_their_axes(make_volume: Any) -> None:
    scan = tilt(make_whole(make_volume))
    labels = np.random.default_rng(1).integers(0, 4, scan.shape)
    turned = to_orientation(scan.with_array(labels), "PIR")
    view = build_view(scan, turned, labels={"b": [2], "a": [1], "c": [3]})
    codes, affine = read(view.masks[0].nifti)
    assert view.labels == ("b", "a", "c")
    assert view.masks[0].members == ((1,), (0,), (2,))  # of the values 1, 2, 3
    expected = list_world(labels[0], scan.affine)
    assert list_world(codes, view.affine) == expected
    assert affine == pytest.approx(view.affine, abs=1e-4)


def test_the_smallest_region_comes_first_and_values_without_a_name_are_shown(make_volume: Any) -> None:
    scan = make_whole(make_volume)
    labels = np.zeros(scan.shape, np.int32)
    labels.ravel()[:6] = [1, 2, 3, 3, 70_000, 9]
    view = build_view(scan, None, scan.with_array(labels), {"whole": [1, 2, 3], "core": [2, 3], "rim": [3]})
    (mask,) = view.masks
    assert (mask.role, view.labels) == ("reference", ("whole", "core", "rim", "value 9", "value 70000"))
    assert mask.members == ((0,), (1, 0), (2, 1, 0), (3,), (4,))
    per_voxel = scan.voxel_volume_mm3 / 1000
    assert mask.volumes_ml == pytest.approx([4 * per_voxel, 3 * per_voxel, 2 * per_voxel, per_voxel, per_voxel])
    assert len(set(view.colours)) == 5


def test_many_labels_are_filled_but_not_outlined(make_volume: Any) -> None:
    scan = make_whole(make_volume)
    labels = scan.with_array(np.arange(scan.array.size).reshape(scan.shape) % 301)
    view = build_view(scan, labels)
    codes, _ = read(view.masks[0].nifti)
    assert codes.max() == 300
    with pytest.raises(LabelError, match="The reference has 300 labels; expected at most 255"):
        build_view(scan, None, labels)


def test_another_grid_is_refused_with_both(make_volume: Any) -> None:
    scan = make_whole(make_volume)
    other = make_volume(spacing=(0.8, 1.2, 3.0)).with_array(np.zeros(scan.shape, np.uint8))
    with pytest.raises(GeometryError, match=r"The reference.* and the scan lie on different grids.*0\.8x.*0\.7x"):
        build_view(scan, None, other)
    with pytest.raises(InputError, match="at most 0 voxels"):
        build_view(scan, max_voxels=0)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], np.uint8), ([-1024, 3071], np.int16), ([0.0, 200.0], np.uint8), ([0, 32767], np.int16), ([1, 0], bool)],
)
def test_whole_numbers_are_exact(make_volume: Any, values: list[float], dtype: Any) -> None:
    volume = make_volume(shape=(2, 3, 5))
    array = np.resize(np.array(values), volume.shape)
    view = build_view(volume.with_array(array.astype(bool) if dtype is bool else array))
    image = nib.Nifti1Image.from_bytes(gzip.decompress(view.nifti))
    assert image.get_data_dtype() == (np.uint8 if dtype is bool else dtype)
    assert sorted(set(np.asarray(image.get_fdata()).ravel())) == sorted(values)
    assert view.notes == ()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_other_values_are_rounded_to_a_stated_step(make_volume: Any, scale: float) -> None:
    volume = make_volume()
    volume = volume.with_array((volume.array * scale).astype(np.float32))
    view = build_view(volume)
    array, _ = read(view.nifti)
    step = float(np.ptp(volume.array)) / 65_534
    assert view.notes == (f"Values are rounded to steps of {step:.3g}.",)
    expected = to_orientation(volume, "RAS").array[0]
    assert np.abs(array - expected).max() <= step * 0.51
    assert (array.min(), array.max()) == pytest.approx((expected.min(), expected.max()), rel=1e-5)


def test_values_that_are_no_numbers_are_the_lowest(make_volume: Any) -> None:
    volume = make_volume(shape=(4, 3, 2), orientation="RAS")
    volume.array[0, 0, 0, 0], volume.array[0, 1, 0, 0], volume.array[0, 2, 0, 0] = np.nan, np.inf, -np.inf
    array, _ = read(build_view(volume, modality="MR").nifti)
    finite = volume.array[np.isfinite(volume.array)]
    assert array[:3, 0, 0] == pytest.approx([finite.min(), finite.max(), finite.min()], rel=1e-4)


def test_windows_suit_the_modality(make_volume: Any) -> None:
    scan = make_whole(make_volume)
    of_ct = build_view(scan, modality="ct").windows
    assert of_ct[0] == ("soft tissue", -160.0, 240.0)
    assert of_ct[-1] == ("all values", scan.array.min(), scan.array.max())
    of_mr = build_view(scan, modality="MR").windows
    assert of_mr[0] == ("1st to 99th percentile", *np.percentile(scan.array, [1, 99]))
    constant = build_view(scan.with_array(np.zeros(scan.shape)), modality="MR").windows
    assert all(low < high for _, low, high in constant)


def test_the_crosshair_starts_where_labels_are_seen(make_volume: Any) -> None:
    scan = make_whole(make_volume, orientation="RAS")
    prediction, reference = np.zeros((2, *scan.shape), np.uint8)
    prediction[0, 2:5, 3:6, 4:7] = 1
    reference[0, 2:5, 3:6, 4:9] = 1
    view = build_view(scan, scan.with_array(prediction), scan.with_array(reference), {"a": [1]})
    assert view.start[:2] == (3, 4)
    assert 4 <= view.start[2] <= 6


@pytest.mark.parametrize("max_bytes", [3_000_000, 100_000, 20_000])
def test_a_small_view_fits_its_budget(make_volume: Any, max_bytes: int) -> None:
    scan = make_whole(make_volume, shape=(90, 80, 40), spacing=(1.0, 1.0, 3.0))
    labels = np.zeros(scan.shape, np.uint8)
    labels[0, 30:60, 30:60, 10:30] = 1
    view = build_small_view(scan, scan.with_array(labels), labels={"a": [1]}, max_bytes=max_bytes)
    assert view.num_bytes == len(view.base64) + len(view.masks[0].base64)
    assert max_bytes / 4 < view.num_bytes <= max_bytes or max_bytes == 3_000_000
    assert view.notes[0].startswith("Cropped around the labels")
    assert (len(view.notes) > 1) == (max_bytes < 3_000_000)
    if max_bytes == 3_000_000:
        assert sorted(view.shape) == [38, 75, 80]  # 25 mm on each side, where the scan has them


def test_masks_can_be_called_after_their_files(make_volume: Any) -> None:
    scan = make_whole(make_volume)
    zeros = scan.with_array(np.zeros(scan.shape, np.uint8))
    view: View = rename_masks(build_view(scan, zeros, zeros), {"prediction": "a.nii.gz"})
    assert [mask.name for mask in view.masks] == ["a.nii.gz", "reference"]
    assert [mask["name"] for mask in view.to_facts()["masks"]] == ["a.nii.gz", "reference"]


def test_only_the_first_channel_is_shown_and_said(make_volume: Any) -> None:
    volume = make_volume(num_channels=3)
    view = build_view(volume.with_array(np.rint(volume.array)))
    assert view.notes == ("Channel 1 of 3 is shown.",)
    assert read(view.nifti)[0].sum() == pytest.approx(np.rint(volume.array[0]).sum())
