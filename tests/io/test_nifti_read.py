"""Files as other programs write them, and nibabel images in memory, give the voxels and the place that they mean."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_files import OBLIQUE, RAMP, make_labels, save

from medunet.errors import LabelError, VolumeError
from medunet.io import (
    list_volumes,
    read_channels,
    read_label_map,
    read_volume,
    write_nifti_labels,
)
from medunet.io.nifti_read import from_nibabel


@pytest.mark.parametrize(("slope", "inter"), [(0.5, 0.0), (1.0, -1024.0), (-2.0, 7.0), (0.363, 0.1)])
def test_slope_and_intercept_are_applied(tmp_path: Path, slope: float, inter: float) -> None:
    path = save(tmp_path / "image.nii", RAMP, scl_slope=slope, scl_inter=inter)
    array = read_volume(path).array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[0], RAMP * slope + inter, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_a_slope_without_meaning_means_no_scaling(tmp_path: Path, slope: float) -> None:
    array = read_volume(save(tmp_path / "image.nii", RAMP, scl_slope=slope, scl_inter=5)).array
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array[0], RAMP)


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8", ">i8", ">u2"])
def test_big_endian(tmp_path: Path, dtype: str) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(RAMP.astype(dtype), OBLIQUE, header), tmp_path / "image.nii.gz")
    assert gzip.decompress((tmp_path / "image.nii.gz").read_bytes())[:4] == b"\0\0\x01\x5c"
    volume = read_volume(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(volume.array[0], RAMP)
    assert volume.array.dtype.isnative
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)


def test_float64_becomes_float32(tmp_path: Path) -> None:
    values = np.array([[[0.1, -1e30, 3.25]]])
    array = read_volume(save(tmp_path / "image.nii", values)).array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[0], values, rtol=1e-6)


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="1 NaN or infinite voxels of 3"):
        read_volume(save(tmp_path / "image.nii", np.array([[[0.1, 1e300, 3.25]]])))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((4, 5), (1, 4, 5, 1)),
        ((3, 4, 5), (1, 3, 4, 5)),
        ((3, 4, 5, 1), (1, 3, 4, 5)),
        ((3, 4, 5, 2), (2, 3, 4, 5)),
        ((3, 4, 5, 1, 3), (3, 3, 4, 5)),
        ((3, 4, 5, 2, 1), (2, 3, 4, 5)),
        ((3, 4, 1, 2), (2, 3, 4, 1)),
    ],
)
def test_axes(tmp_path: Path, stored: Any, expected: Any) -> None:
    values = np.arange(np.prod(stored), dtype=np.int16).reshape(stored)
    array = read_volume(save(tmp_path / "image.nii", values)).array
    assert array.shape == expected
    np.testing.assert_array_equal(array, np.moveaxis(values.reshape(*expected[1:], expected[0]), -1, 0))


@pytest.mark.parametrize("shape", [(4,), (3, 4, 5, 2, 2), (3, 4, 5, 2, 1, 2)])
def test_other_axes_are_refused(tmp_path: Path, shape: Any) -> None:
    path = save(tmp_path / "image.nii", np.zeros(shape, np.uint8))
    with pytest.raises(VolumeError, match=rf"image\.nii has {len(shape)} axes .*expected 3, or 4"):
        read_volume(path)


@pytest.mark.parametrize(("unit", "factor"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001)])
def test_units_become_millimetres(tmp_path: Path, unit: int, factor: float) -> None:
    volume = read_volume(save(tmp_path / "image.nii", RAMP, xyzt_units=unit + 8))
    np.testing.assert_allclose(volume.affine[:3], OBLIQUE[:3] * factor, rtol=1e-5)


def test_an_extension_of_many_bytes_does_not_hide_the_voxels(tmp_path: Path) -> None:
    image = nib.Nifti1Image(RAMP, OBLIQUE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"<AFNI_attributes/>" * 500))
    nib.save(image, tmp_path / "afni.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "afni.nii.gz").array[0], RAMP)


def test_both_halves_of_a_pair_give_the_same_volume(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(RAMP, OBLIQUE), tmp_path / "pair.hdr")
    for half in ("pair.hdr", "pair.img"):
        np.testing.assert_array_equal(read_volume(tmp_path / half).array[0], RAMP)


def test_a_file_is_read_by_content_when_the_name_says_gz_but_it_is_not(tmp_path: Path) -> None:
    save(tmp_path / "image.nii", RAMP).rename(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii.gz").array[0], RAMP)


@pytest.mark.parametrize("name", ["with space.nii", "Größe 心.nii.gz", "UPPER.NII.GZ", "n" * 240 + ".nii"])
def test_unusual_names(tmp_path: Path, name: str) -> None:
    write_nifti_labels(make_labels(), tmp_path / "höhe 1" / name)
    np.testing.assert_array_equal(read_label_map(tmp_path / "höhe 1" / name).array, make_labels().array)


def test_list_volumes_leaves_out_hidden_files_and_voxel_halves(tmp_path: Path) -> None:
    for name in ("b.nii", "a.nii.gz", ".hidden.nii", "pair.hdr", "pair.img", "notes.txt", ".a.nii.1f.partial"):
        (tmp_path / name).touch()
    assert [path.name for path in list_volumes(tmp_path)] == ["a.nii.gz", "b.nii", "pair.hdr"]


def test_list_volumes_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="gone cannot be listed: No such file"):
        list_volumes(tmp_path / "gone")


def test_one_file_per_channel(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.nii", RAMP + n) for n in range(2)]
    volume = read_channels(paths)
    np.testing.assert_array_equal(volume.array, np.stack([RAMP, RAMP + 1]))


def test_channels_of_mixed_types_stay_float32(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.nii", RAMP.astype(np.int32)), save(tmp_path / "b.nii", RAMP.astype(np.float32))]
    assert read_channels(paths).array.dtype == np.float32


# ---- label maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_labels_with_whole_numbers_are_taken(tmp_path: Path, dtype: str) -> None:
    array = read_label_map(save(tmp_path / "mask.nii", RAMP.astype(dtype))).array
    assert array.dtype.kind == "i"
    np.testing.assert_array_equal(array[0], RAMP)


def test_labels_behind_a_slope_are_whole(tmp_path: Path) -> None:
    slope = np.float32(1 / 60)
    array = read_label_map(save(tmp_path / "mask.nii", RAMP * 60, slope=slope)).array
    np.testing.assert_array_equal(array[0], RAMP)


def test_labels_are_rounded_not_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii", np.array([[[0.999999, 2.000001]]], np.float32))
    assert read_label_map(path).array.tolist() == [[[[1, 2]]]]


def test_row_32_labels_with_fractions_are_refused_by_value(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii", np.array([[[0, 1, 0.25, 1.5, 0.25]]], np.float32))
    with pytest.raises(
        LabelError, match=r"mask\.nii holds labels that are no whole numbers \(0\.25, 1\.5 in 3 voxels\)"
    ):
        read_label_map(path)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("value", [-1, 2**24, 2**30])
def test_row_32_labels_out_of_range_are_refused_by_value(tmp_path: Path, value: int, dtype: Any) -> None:
    path = save(tmp_path / "mask.nii", np.array([[[0, 1, value]]], dtype))
    with pytest.raises(LabelError, match=r"mask\.nii holds labels outside 0 to 16777215 \(.* in 1 voxels\)"):
        read_label_map(path)


def test_row_32_label_map_with_channels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii", np.zeros((3, 4, 5, 2), np.uint8))
    with pytest.raises(LabelError, match=r"mask\.nii has 2 channels; a label map has 1"):
        read_label_map(path)


# ---- nibabel images in memory ----------------------------------------------------------------------------------------


def test_an_image_in_memory_gives_what_its_file_gives(tmp_path: Path) -> None:
    image = nib.Nifti1Image(RAMP, OBLIQUE)
    nib.save(image, tmp_path / "image.nii")
    np.testing.assert_array_equal(from_nibabel(image).array, read_volume(tmp_path / "image.nii").array)
    np.testing.assert_allclose(from_nibabel(image).affine, OBLIQUE)


def test_a_loaded_image_with_a_slope(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", RAMP, slope=0.5)
    np.testing.assert_array_equal(from_nibabel(nib.load(path)).array[0], RAMP / 2)


def test_float_voxels_behind_an_integer_header_are_kept() -> None:
    image = nib.Nifti1Image(np.array([[[0.25, 0.5]]]), np.eye(4))
    image.set_data_dtype(np.int16)
    np.testing.assert_array_equal(from_nibabel(image).array, [[[[0.25, 0.5]]]])


def test_an_affine_changed_in_place_counts() -> None:
    image = nib.Nifti1Image(RAMP, np.eye(4))
    image.affine[0, 3] = 77.0
    assert from_nibabel(image).affine[0, 3] == 77


def test_micron_units_of_an_image_in_memory() -> None:
    image = nib.Nifti1Image(RAMP, np.diag([500.0, 500, 500, 1]))
    image.header.set_xyzt_units("micron")
    assert from_nibabel(image).spacing == pytest.approx((0.5, 0.5, 0.5))


def test_another_kind_of_nibabel_image() -> None:
    np.testing.assert_allclose(from_nibabel(nib.MGHImage(RAMP, OBLIQUE)).affine, OBLIQUE)


def test_analyze_in_memory_is_refused() -> None:
    with pytest.raises(VolumeError, match=r"the nibabel image is of the kind Analyze 7\.5"):
        from_nibabel(nib.AnalyzeImage(RAMP, np.eye(4)))


def test_a_loaded_image_whose_file_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 21, 22)).astype(np.uint8)
    path = save(tmp_path / "image.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(VolumeError, match=r"the nibabel image .*(damaged|cannot be read)"):
        from_nibabel(nib.load(path))
