"""What is written comes back; the scan's geometry keeps its bits and its free text stays behind."""

from __future__ import annotations

import gzip
import itertools
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import GeometryError, LabelError, OutputError, VolumeError
from medunet.io import (
    list_volumes,
    read_channels,
    read_label_map,
    read_volume,
    to_nibabel,
    write_nifti_image,
    write_nifti_labels,
)
from medunet.io.nifti import from_nibabel
from medunet.volume import Volume, to_orientation

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["LR", "PA", "IS"]) for letters in itertools.product(*axes)
]
CANARY = b"Canary^Patient"
GEOMETRY_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, -1.2, 3.0]), [-31.0, 12.5, 40.25]
)


def make_labels(affine: Any = OBLIQUE, shape: tuple[int, int, int] = (5, 6, 7), highest: int = 3) -> Volume:
    labels = np.random.default_rng(1).integers(0, highest, (1, *shape), endpoint=True)
    return Volume(labels.astype(np.int64), np.asarray(affine))


def read_raw_header(path: Path) -> Any:
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    size = 540 if 540 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")) else 348
    return (nib.Nifti2Header if size == 540 else nib.Nifti1Header)(content[:size], check=False)


# ---- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_comes_back_from_every_orientation(tmp_path: Path, make_volume: Any, orientation: str) -> None:
    volume = make_volume(shape=(3, 4, 5), orientation=orientation)
    write_nifti_image(volume, tmp_path / "image.nii")
    again = read_volume(tmp_path / "image.nii")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine, volume.affine, rtol=1e-6, atol=1e-5)
    assert again.orientation == orientation


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_dtype_comes_back(tmp_path: Path, dtype: str, ending: str) -> None:
    limits = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    array = np.array([limits.min, limits.max, 0, 1, 2, 3], dtype=dtype).reshape(1, 1, 2, 3)
    write_nifti_image(Volume(array, OBLIQUE), tmp_path / f"image{ending}")
    again = read_volume(tmp_path / f"image{ending}").array
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, array)


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 9)] * 3),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    origin=st.tuples(*[st.floats(-800, 800)] * 3),
)
def test_oblique_affine_comes_back_within_float32(
    tmp_path_factory: Any, angles: Any, spacing: Any, flips: Any, origin: Any
) -> None:
    matrix = nib.eulerangles.euler2mat(*angles) @ np.diag(np.multiply(spacing, flips))
    volume = Volume(np.zeros((1, 2, 3, 4), np.uint8), nib.affines.from_matvec(matrix, origin))
    path = tmp_path_factory.mktemp("oblique") / "image.nii"
    write_nifti_image(volume, path)
    np.testing.assert_allclose(read_volume(path).affine, volume.affine, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("code", ["sform", "qform"])
def test_written_geometry_is_the_same_for_readers_of_either_form(tmp_path: Path, code: str) -> None:
    write_nifti_labels(make_labels(), tmp_path / "mask.nii")
    header = nib.load(tmp_path / "mask.nii").header
    np.testing.assert_allclose(getattr(header, f"get_{code}")(), OBLIQUE, atol=1e-5)
    assert int(header[f"{code}_code"]) > 0


def test_channels_are_the_last_axis_in_the_file_and_the_first_in_memory(tmp_path: Path, make_volume: Any) -> None:
    volume = make_volume(shape=(3, 4, 5), num_channels=2)
    write_nifti_image(volume, tmp_path / "image.nii.gz")
    stored = nib.load(tmp_path / "image.nii.gz").get_fdata()
    assert stored.shape == (3, 4, 5, 2)
    np.testing.assert_array_equal(stored[..., 1], volume.array[1])
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii.gz").array, volume.array)


@pytest.mark.parametrize(("dtype", "stored"), [(np.bool_, np.uint8), (np.float16, np.float32)])
def test_types_that_nifti_lacks_are_widened(tmp_path: Path, dtype: Any, stored: Any) -> None:
    array = np.array([[[[0, 1, 1]]]], dtype=dtype)
    write_nifti_image(Volume(array, np.eye(4)), tmp_path / "image.nii")
    again = read_volume(tmp_path / "image.nii").array
    assert again.dtype == stored
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    ("highest", "dtype"), [(1, "uint8"), (255, "uint8"), (256, "int16"), (32767, "int16"), (40000, "int32")]
)
def test_labels_take_the_smallest_dtype(tmp_path: Path, highest: int, dtype: str) -> None:
    labels = np.array([[[[0, highest]]]], dtype=np.int64)
    write_nifti_labels(Volume(labels, OBLIQUE), tmp_path / "mask.nii.gz")
    again = read_label_map(tmp_path / "mask.nii.gz").array
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, labels)


def test_an_axis_too_long_for_nifti1_is_written_as_nifti2(tmp_path: Path) -> None:
    write_nifti_image(Volume(np.zeros((1, 40000, 1, 1), np.uint8), np.eye(4)), tmp_path / "long.nii")
    assert read_volume(tmp_path / "long.nii").spatial_shape == (40000, 1, 1)


def test_same_mask_gives_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti_labels(make_labels(), tmp_path / "one.nii.gz")
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_nifti_labels(make_labels(), tmp_path / "two.nii.gz")
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_other_endings_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"mask\.nrrd: the name must end in \.nii or \.nii\.gz"):
        write_nifti_labels(make_labels(), tmp_path / "mask.nrrd")


def test_labels_beyond_32_bits_are_not_wrapped(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=f"from 0 to {2**31}"):
        write_nifti_labels(Volume(np.array([[[[0, 2**31]]]]), OBLIQUE), tmp_path / "mask.nii")


@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint8), (1, np.float32)])
def test_scores_are_not_written_as_labels(tmp_path: Path, channels: int, dtype: Any) -> None:
    with pytest.raises(LabelError, match=f"got {channels} of dtype"):
        write_nifti_labels(Volume(np.ones((channels, 2, 2, 2), dtype), OBLIQUE), tmp_path / "mask.nii")


def test_description_is_cut_to_its_field(tmp_path: Path) -> None:
    write_nifti_labels(make_labels(), tmp_path / "mask.nii", description="medunet ü " + "x" * 90)
    descrip = read_raw_header(tmp_path / "mask.nii")["descrip"]
    assert descrip.tobytes() == b"medunet ? " + b"x" * 69 + b"\0"


def test_to_nibabel_holds_labels_and_place() -> None:
    image = to_nibabel(make_labels())
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), make_labels().array[0])
    np.testing.assert_allclose(image.affine, OBLIQUE)
    assert image.header.get_xyzt_units()[0] == "mm"


# ---- like= -----------------------------------------------------------------------------------------------------------


def build_scan(kind: str, folder: Path) -> Path:
    """A scan with odd but valid geometry fields, and a patient's name wherever the format has room for one."""
    version2, single = "nifti2" in kind, "pair" not in kind
    image_class = (
        (nib.Nifti2Image if version2 else nib.Nifti1Image)
        if single
        else (nib.Nifti2Pair if version2 else nib.Nifti1Pair)
    )
    header = image_class.header_class(endianness=">" if "big-endian" in kind else "<")
    array = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
    image = image_class(array, OBLIQUE, header)
    image.set_sform(OBLIQUE, code=0 if "qform-only" in kind else 2)
    image.set_qform(OBLIQUE, code=0 if "sform-only" in kind else 3)
    image.header["pixdim"][4:] = 2.5
    image.header.set_xyzt_units("micron" if "micron" in kind else "mm", "sec")
    for field in ("descrip", "aux_file", "intent_name", *([] if version2 else ["db_name"])):
        image.header[field] = CANARY
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY * 40))
    path = folder / ("scan.nii.gz" if single else "scan.hdr")
    nib.save(image, path)
    return path


KINDS = [
    "nifti1", "nifti2", "nifti1 big-endian", "nifti2 big-endian", "nifti1 pair", "nifti2 pair", "nifti1 sform-only",
    "nifti1 qform-only", "nifti1 micron",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_mask_keeps_the_bits_of_the_scans_geometry(tmp_path: Path, kind: str) -> None:
    scan = build_scan(kind, tmp_path)
    volume = read_volume(scan)
    write_nifti_labels(make_labels(volume.affine), tmp_path / "mask.nii.gz", like=scan)
    source, written = read_raw_header(scan), read_raw_header(tmp_path / "mask.nii.gz")
    assert type(written) is type(source)
    for field in GEOMETRY_FIELDS:
        assert written[field].astype(source[field].dtype).tobytes() == source[field].tobytes(), field
    np.testing.assert_array_equal(written["pixdim"][:4], source["pixdim"][:4])
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii.gz").affine, volume.affine)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_holds_no_text_of_the_scan(tmp_path: Path, kind: str) -> None:
    scan = build_scan(kind, tmp_path)
    assert CANARY in b"".join(
        gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in tmp_path.iterdir()
    )
    write_nifti_labels(make_labels(read_volume(scan).affine), tmp_path / "mask.nii", like=scan, description="medunet")
    content = (tmp_path / "mask.nii").read_bytes()
    assert b"Canary" not in content
    assert b"Patient" not in content


def test_like_accepts_either_half_of_a_pair(tmp_path: Path) -> None:
    scan = build_scan("nifti1 pair", tmp_path)
    labels = make_labels(read_volume(scan).affine)
    for half in (".hdr", ".img"):
        write_nifti_labels(labels, tmp_path / f"{half[1:]}.nii", like=scan.with_suffix(half))
    assert (tmp_path / "hdr.nii").read_bytes() == (tmp_path / "img.nii").read_bytes()


def test_mask_on_another_grid_than_the_scan_is_refused(tmp_path: Path) -> None:
    scan = build_scan("nifti1", tmp_path)
    with pytest.raises(GeometryError, match=r"The mask and .*scan\.nii\.gz lie on different grids.*5x6x8"):
        write_nifti_labels(make_labels(shape=(5, 6, 8)), tmp_path / "mask.nii", like=scan)
    moved = OBLIQUE.copy()
    moved[0, 3] += 1
    with pytest.raises(GeometryError, match=r"up to 1\.00 mm apart"):
        write_nifti_labels(make_labels(moved), tmp_path / "mask.nii", like=scan)
    assert not (tmp_path / "mask.nii").exists()


def test_mask_like_a_2d_scan(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5), np.uint8), np.eye(4)), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    write_nifti_labels(volume, tmp_path / "mask.nii", like=tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii").array, volume.array)


# ---- what other programs write ---------------------------------------------------------------------------------------


def save(path: Path, array: Any, *, affine: Any = OBLIQUE, slope: float | None = None, **fields: Any) -> Path:
    """A file as nibabel writes it, then with header fields set to any value."""
    image = nib.Nifti1Image(np.asarray(array), affine)
    image.header.set_slope_inter(slope if slope is not None else 1, 0)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    header["scl_slope"], header["scl_inter"] = (1, 0) if slope is None else (slope, 0)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


RAMP = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


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


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.nii", RAMP), save(tmp_path / "b.nii", RAMP, affine=OBLIQUE * [[1], [1], [-1], [1]])]
    with pytest.raises(GeometryError, match=r"a\.nii and .*b\.nii lie on different grids"):
        read_channels(paths)


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


def test_labels_with_fractions_are_refused_by_value(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii", np.array([[[0, 1, 0.25, 1.5, 0.25]]], np.float32))
    with pytest.raises(
        LabelError, match=r"mask\.nii holds labels that are no whole numbers \(0\.25, 1\.5 in 3 voxels\)"
    ):
        read_label_map(path)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("value", [-1, 2**24, 2**30])
def test_labels_out_of_range_are_refused_by_value(tmp_path: Path, value: int, dtype: Any) -> None:
    path = save(tmp_path / "mask.nii", np.array([[[0, 1, value]]], dtype))
    with pytest.raises(LabelError, match=r"mask\.nii holds labels outside 0 to 16777215 \(.* in 1 voxels\)"):
        read_label_map(path)


def test_label_map_with_channels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii", np.zeros((3, 4, 5, 2), np.uint8))
    with pytest.raises(LabelError, match=r"mask\.nii has 2 channels; a label map has 1"):
        read_label_map(path)


# ---- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.fixture
def refuse(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """Read a file that must be refused by one line that names it, in silence otherwise."""

    def check(path: Path, match: str, named: str | None = None) -> None:
        with pytest.raises(VolumeError, match=match) as caught:
            read_volume(path)
        message = str(caught.value)
        assert (named or str(path)) in message
        assert "\n" not in message
        assert message.endswith(".")
        assert not [record for record in caplog.records if record.name.startswith("nibabel")]
        assert capfd.readouterr() == ("", "")

    return check


def test_missing_file(tmp_path: Path, refuse: Any) -> None:
    refuse(tmp_path / "gone.nii.gz", "does not exist; expected a file. Check the path")


def test_broken_link(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "link.nii").symlink_to("gone.nii")
    refuse(tmp_path / "link.nii", "is a link to a file that is gone")


def test_link_in_a_circle(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "link.nii").symlink_to("link.nii")
    refuse(tmp_path / "link.nii", "cannot be opened: .* Check the path")


def test_link_to_a_good_file(tmp_path: Path) -> None:
    save(tmp_path / "image.nii", RAMP)
    (tmp_path / "link.nii").symlink_to("image.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "link.nii").array[0], RAMP)


def test_folder(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    refuse(tmp_path / "folder.nii.gz", r"is a folder; expected a file ending in \.nii\.gz")


def test_file_below_a_file(tmp_path: Path, refuse: Any) -> None:
    save(tmp_path / "image.nii", RAMP)
    refuse(tmp_path / "image.nii" / "image.nii", "cannot be opened: Not a directory")


@pytest.mark.timeout(10)
def test_pipe_does_not_hang(tmp_path: Path, refuse: Any) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    refuse(tmp_path / "pipe.nii", "is a pipe or a device; expected a regular file. Copy it")


def test_name_with_a_zero_byte() -> None:
    with pytest.raises(VolumeError, match="cannot be opened: embedded null byte"):
        read_volume("image\0.nii")


def test_name_that_is_too_long(tmp_path: Path, refuse: Any) -> None:
    refuse(tmp_path / ("n" * 300 + ".nii"), "cannot be opened: File name too long")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of one's own; root, who may read everything, becomes nobody for the while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    folder = Path(tempfile.mkdtemp())
    yield folder
    if is_root:
        os.setresuid(0, 0, 0)
    shutil.rmtree(folder)


def test_no_permission_for_the_file(as_nobody: Path, refuse: Any) -> None:
    save(as_nobody / "image.nii", RAMP).chmod(0)
    refuse(as_nobody / "image.nii", r"no permission to read it\. Change its permissions")


def test_no_permission_for_the_folder(as_nobody: Path, refuse: Any) -> None:
    (as_nobody / "locked").mkdir()
    path = save(as_nobody / "locked" / "image.nii", RAMP)
    path.parent.chmod(0)
    refuse(path, r"cannot be opened: Permission denied\. Check the path and its permissions")
    path.parent.chmod(0o755)


def test_ending_of_another_format(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "image.nrrd").write_bytes(b"NRRD0004\n")
    refuse(tmp_path / "image.nrrd", "is no volume that medunet reads; expected a name ending in .* Convert it first")


@pytest.mark.parametrize("num_bytes", [1, 3, 100, 347, 348, 351, 352, 353, 471])
def test_truncated(tmp_path: Path, refuse: Any, num_bytes: int) -> None:
    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    assert len(content) == 472
    (tmp_path / "image.nii").write_bytes(content[:num_bytes])
    expected = (
        "promises 3x4x5 voxels.*the file has" if num_bytes >= 348 else r"is no NIfTI file: it is (cut|of an|a text)"
    )
    refuse(tmp_path / "image.nii", expected)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_gzip(tmp_path: Path, refuse: Any, fraction: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 21, 22)).astype(np.uint8)
    content = save(tmp_path / "image.nii.gz", noise).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(content[: int(len(content) * fraction)])
    refuse(tmp_path / "image.nii.gz", "its compressed data end too early. Copy it from its source again")


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_gzip_without_its_trailer(tmp_path: Path, refuse: Any, cut: int) -> None:
    content = save(tmp_path / "image.nii.gz", RAMP).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(content[:-cut])
    refuse(tmp_path / "image.nii.gz", "its compressed data end too early")


@pytest.mark.parametrize("position", [-1, -5, -8])
def test_flipped_checksum(tmp_path: Path, refuse: Any, position: int) -> None:
    content = bytearray(save(tmp_path / "image.nii.gz", RAMP).read_bytes())
    content[position] ^= 1
    (tmp_path / "image.nii.gz").write_bytes(content)
    refuse(tmp_path / "image.nii.gz", "garbled or fail their checksum. Copy it")


def test_a_flipped_bit_among_stored_voxels_is_noticed(tmp_path: Path, refuse: Any) -> None:
    plain = save(tmp_path / "image.nii", RAMP).read_bytes()
    content = bytearray(gzip.compress(plain, compresslevel=0))  # stored: the bit changes a voxel and nothing else
    content[-20] ^= 1
    (tmp_path / "image.nii.gz").write_bytes(content)
    refuse(tmp_path / "image.nii.gz", "fail their checksum")


def test_gzip_inside_is_cut_short(tmp_path: Path, refuse: Any) -> None:
    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(content[:-7]))
    refuse(tmp_path / "image.nii.gz", "promises 120 bytes of voxels, the file holds 113. Copy it")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404 Canary</title>", "an HTML page"),
        (b"\n<html><body>Canary", "an HTML page"),
        (b"Name: Canary\nAge: 77\n" * 30, "a text file"),
        (b"PK\x03\x04" + bytes(600), "a zip archive"),
        (b"\x89PNG\r\n" + bytes(600), "a PNG picture"),
        (bytes(128) + b"DICM" + b"Canary" * 99, "a DICOM file"),
        (bytes(1000), "nothing but zero bytes at its start"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"NRRD0004\n", "an NRRD file"),
        (b"\x01\x02Canary\x00" * 99, "of an unknown binary kind"),
        (gzip.compress(bytes(9)), "compressed twice"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_other_content_is_named_not_quoted(
    tmp_path: Path, refuse: Any, content: bytes, kind: str, compressed: bool
) -> None:
    if content[:2] == b"\x1f\x8b" and not compressed:
        pytest.skip("is a plain gzip file")
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(content) if compressed else content)
    refuse(path, f"is no NIfTI file: it is {kind}.*; expected .nii or .nii.gz. Convert it")
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert "Canary" not in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_lying_header_costs_neither_time_nor_memory(tmp_path: Path, refuse: Any, ending: str) -> None:
    import time
    import tracemalloc

    path = save(tmp_path / f"image{ending}", RAMP, dim=[3, 10000, 10000, 10000, 1, 1, 1, 1])
    tracemalloc.start()
    started = time.perf_counter()
    refuse(path, r"promises 10000x10000x10000 voxels \(2000000000352 bytes\), the file has \d+ bytes")
    seconds, (_, peak_bytes) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak_bytes < 50e6


@pytest.mark.timeout(30)
def test_a_gzip_bomb_is_defused(tmp_path: Path, refuse: Any) -> None:
    import tracemalloc

    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    zeros = gzip.compress(bytes(2**24))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(content) + zeros * 1000)  # 16 MB on disk, 16 GB unpacked
    tracemalloc.start()
    refuse(path, r"holds over \d+ bytes after its voxels; expected none")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6


def test_padding_after_the_voxels_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "image.nii.gz", RAMP)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(100)))
    np.testing.assert_array_equal(read_volume(path).array[0], RAMP)
    assert "holds 100 bytes after its voxels" in caplog.text


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dim": [3, 0, 4, 5, 1, 1, 1, 1]}, r"has dim = \[3, 0, 4, 5, .*positive sizes"),
        ({"dim": [3, 3, -4, 5, 1, 1, 1, 1]}, r"has dim = \[3, 3, -4, 5"),
        ({"dim": [3, -1, 1, 1, 1, 1, 1, 1], "glmin": 60}, r"has dim = \[3, -1, 1, 1"),
        ({"dim": [0, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[0, 3, 4, 5"),
        ({"dim": [9, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[9, 3, 4, 5"),
        ({"dim": [-3, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[-3, 3, 4, 5"),
        ({"dim": [4, 27307, 1, 6, 1, 1, 1, 1]}, "the vertices of a FreeSurfer surface"),
        ({"intent_code": 3006}, "is a CIFTI file"),
        ({"datatype": 77}, "has datatype = 77 in its header, which NIfTI does not know"),
        ({"datatype": 0}, "holds .* voxels; expected one real number"),
        ({"datatype": 1}, "holds 1-bit voxels; expected one real number"),
        ({"vox_offset": 0}, "has vox_offset = 0 in its header; expected 352 or more"),
        ({"vox_offset": 100}, "has vox_offset = 100 "),
        ({"vox_offset": -352}, "has vox_offset = -352 "),
        ({"vox_offset": float("nan")}, "has vox_offset = nan "),
        ({"vox_offset": float("inf")}, "has vox_offset = inf "),
        ({"vox_offset": 352.5}, "has vox_offset = 352.5 "),
        ({"vox_offset": 1e12}, "promises 3x4x5 voxels .* the file has 472 bytes"),
        ({"magic": b"xyz"}, r"has a magic field that is neither 'n\+1' nor 'ni1'"),
        ({"magic": b"n+1x"}, "has a magic field that is neither"),
        ({"magic": b"Can"}, "has a magic field that is neither"),
        ({"magic": b""}, "has a magic field that is neither"),
        ({"magic": b"ni1"}, "says in its magic field that it is the header of a .hdr/.img pair"),
        ({"scl_slope": 2, "scl_inter": float("nan")}, "has scl_inter = nan in its header"),
        ({"xyzt_units": 5}, "has the length unit 5 in xyzt_units"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "has an affine with NaN or infinite entries"),
        ({"srow_z": [0, 0, np.inf, 0]}, "has an affine with NaN or infinite entries"),
        ({"srow_x": [1, 0, 0, 1e30]}, r"has an affine with entries up to 1e\+30 mm; expected 1e\+07 at most"),
        ({"srow_x": [0, 0, 0, 0]}, "has a singular affine"),
        ({"srow_x": [1, 0, 1, 0], "srow_y": [0, 1, 0, 0], "srow_z": [1, 0, 1, 0]}, "has a singular affine"),
        (
            {"srow_x": [1, 0.2, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]},
            "has a sheared affine .axes 11.3 degrees from square",
        ),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2.0}, "has a qform with impossible quatern fields"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "qform|NaN"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, np.nan, 1, 1, 1, 1, 1, 1]}, "NaN or infinite entries"),
    ],
)
def test_bad_header_fields_are_named(tmp_path: Path, refuse: Any, fields: dict[str, Any], match: str) -> None:
    refuse(save(tmp_path / "image.nii", RAMP, **fields), match)


def test_slightly_sheared_affine_is_taken(tmp_path: Path) -> None:
    sheared = nib.affines.from_matvec([[1, 0.005, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(read_volume(save(tmp_path / "image.nii", RAMP, affine=sheared)).affine, sheared)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted(tmp_path: Path, refuse: Any, value: float) -> None:
    array = RAMP.astype(np.float32)
    array[0, :2, 0] = value
    refuse(save(tmp_path / "image.nii.gz", array), "holds 2 NaN or infinite voxels of 60.*Replace them")


@pytest.mark.parametrize(
    ("dtype", "what"),
    [(np.complex64, "complex64"), (np.complex128, "complex128"), ([(c, "u1") for c in "RGB"], "colour")],
)
def test_voxels_of_several_numbers_are_refused(tmp_path: Path, refuse: Any, dtype: Any, what: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), dtype), np.eye(4)), tmp_path / "image.nii")
    refuse(tmp_path / "image.nii", f"holds {what} voxels; expected one real number per voxel")


@pytest.mark.parametrize("half", [".hdr", ".img"])
def test_analyze_is_refused(tmp_path: Path, refuse: Any, half: str) -> None:
    nib.save(nib.AnalyzeImage(RAMP, np.eye(4)), tmp_path / "image.hdr")
    refuse(tmp_path / f"image{half}", "is an Analyze 7.5 file, which does not say left from right", "image.hdr")


@pytest.mark.parametrize(("gone", "given"), [(".img", ".hdr"), (".hdr", ".img")])
def test_a_pair_with_a_missing_half(tmp_path: Path, refuse: Any, gone: str, given: str) -> None:
    nib.save(nib.Nifti1Pair(RAMP, OBLIQUE), tmp_path / "pair.hdr")
    (tmp_path / f"pair{gone}").unlink()
    refuse(tmp_path / f"pair{given}", f"pair{gone} does not exist; expected", f"pair{gone}")


def test_a_pair_with_truncated_voxels(tmp_path: Path, refuse: Any) -> None:
    nib.save(nib.Nifti1Pair(RAMP, OBLIQUE), tmp_path / "pair.hdr")
    os.truncate(tmp_path / "pair.img", 100)
    refuse(tmp_path / "pair.hdr", r"promises 3x4x5 voxels \(120 bytes\), the file has 100 bytes", "pair.img")


@settings(max_examples=300, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6),
    is_version2=st.booleans(),
)
def test_any_header_bytes_give_a_volume_or_a_volume_error(
    tmp_path_factory: Any, flips: list[tuple[int, int]], is_version2: bool
) -> None:
    image = (nib.Nifti2Image if is_version2 else nib.Nifti1Image)(RAMP, OBLIQUE)
    content = bytearray(image.to_bytes())
    for position, value in flips:
        content[position] = value
    path = tmp_path_factory.mktemp("fuzz") / "image.nii"
    path.write_bytes(content)
    try:
        volume = read_volume(path)
    except VolumeError as error:
        assert str(path) in str(error)  # noqa: PT017 - a volume is as good an answer
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert np.isfinite(volume.affine).all()


def test_no_form_at_all_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "image.nii", RAMP, sform_code=0, qform_code=0)
    read_volume(path)
    assert f"{path} says neither sform nor qform" in caplog.text


def test_forms_that_disagree_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "image.nii", RAMP, affine=np.diag([2.0, 2, 2, 1]), qform_code=1, qoffset_x=30)
    affine = read_volume(path).affine
    assert f"{path} has an sform and a qform that differ by up to 30.0 units; the sform is used" in caplog.text
    np.testing.assert_array_equal(affine, np.diag([2.0, 2, 2, 1]))


def test_forms_that_agree_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_volume(build_scan("nifti1", tmp_path))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_repairs_of_the_header_name_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "image.nii", RAMP, pixdim=[1, 0, 1, 1, 1, 1, 1, 1])
    read_volume(path)
    assert f"{path} has an odd header: pixdim[1,2,3] should be non-zero" in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("nibabel")]


def test_the_scan_is_not_touched(tmp_path: Path) -> None:
    scan = build_scan("nifti1", tmp_path)
    before, mode = scan.read_bytes(), stat.S_IMODE(scan.stat().st_mode)
    write_nifti_labels(make_labels(read_volume(scan).affine), tmp_path / "mask.nii", like=scan)
    assert (scan.read_bytes(), stat.S_IMODE(scan.stat().st_mode)) == (before, mode)


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


# ---- real volumes ----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_48_orientations_are_one_volume(real_data: Path) -> None:
    paths = sorted((real_data / "nifti" / "48-orientations").glob("*.nii.gz"))
    assert len(paths) == 48
    first = to_orientation(read_volume(paths[0]), "RAS")
    for path in paths:
        volume = to_orientation(read_volume(path), "RAS")
        np.testing.assert_array_equal(volume.array, first.array)
        np.testing.assert_allclose(volume.affine, first.affine, atol=0.01)


@pytest.mark.realdata
@pytest.mark.timeout(60)
def test_every_oddity_is_read_as_nibabel_reads_it_or_refused(real_data: Path) -> None:
    num_read = 0
    for path in sorted((real_data / "nifti" / "oddities").iterdir()):
        try:
            volume = read_volume(path)
        except VolumeError as error:
            assert str(path) in str(error)  # noqa: PT017 - a volume is as good an answer
            continue
        expected = nib.load(path)
        stored = np.squeeze(np.moveaxis(volume.array, 0, -1))
        np.testing.assert_allclose(
            stored, np.squeeze(expected.get_fdata(dtype=np.float32)), rtol=1e-5, atol=1e-4, err_msg=path.name
        )
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4, err_msg=path.name)
        num_read += 1
    assert num_read >= 35


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("shear.nii.gz", "has a sheared affine"),
        ("complex.nii.gz", "holds complex64 voxels"),
        ("ct_perfusion.nii.gz", "holds colour voxels"),
        ("row_major.dconn.nii", "is a CIFTI file"),
        ("pval.LH.nii.gz", "a FreeSurfer surface"),
        ("resampled_anat_moved.nii", "153 NaN or infinite voxels"),
        ("FLAIR.nrrd", "is no volume that medunet reads"),
    ],
)
def test_oddities_that_are_no_volumes(real_data: Path, name: str, match: str) -> None:
    with pytest.raises(VolumeError, match=match):
        read_volume(real_data / "nifti" / "oddities" / name)


@pytest.mark.realdata
def test_a_real_file_with_an_afni_extension_is_read(real_data: Path) -> None:
    assert read_volume(real_data / "nifti" / "oddities" / "stats.nv_demo_mskd.nii.gz").shape == (2, 77, 92, 77)


@pytest.mark.realdata
def test_hippocampus_labels_are_small_integers(real_data: Path) -> None:
    paths = list_volumes(real_data / "hippocampus-mr" / "labelsTr")
    assert len(paths) == 200
    found = [read_label_map(path).array for path in paths]
    assert {array.dtype.kind for array in found} <= {"u", "i"}
    assert {int(value) for array in found for value in np.unique(array)} == {0, 1, 2}
