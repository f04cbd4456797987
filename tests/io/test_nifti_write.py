"""What is written comes back; the scan's geometry keeps its bits and its free text stays behind."""

from __future__ import annotations

import gzip
import itertools
import stat
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import CANARY, KINDS, OBLIQUE, build_scan, make_labels, read_raw_header

from medunet.errors import GeometryError, LabelError, OutputError
from medunet.io import (
    read_label_map,
    read_volume,
    to_nibabel,
    write_nifti_image,
    write_nifti_labels,
)
from medunet.volume import Volume

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["LR", "PA", "IS"]) for letters in itertools.product(*axes)
]
GEOMETRY_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


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


# ---- like= ----------------------------------------------------------------------------------------------------------


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
def test_row_36_mask_holds_no_text_of_the_scan(tmp_path: Path, kind: str) -> None:
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


def test_the_scan_is_not_touched(tmp_path: Path) -> None:
    scan = build_scan("nifti1", tmp_path)
    before, mode = scan.read_bytes(), stat.S_IMODE(scan.stat().st_mode)
    write_nifti_labels(make_labels(read_volume(scan).affine), tmp_path / "mask.nii", like=scan)
    assert (scan.read_bytes(), stat.S_IMODE(scan.stat().st_mode)) == (before, mode)


def test_a_slightly_sheared_grid_has_no_qform(tmp_path: Path, make_volume: Any) -> None:
    """A rotation cannot hold it; written all the same, it would lie elsewhere than the sform."""
    volume = make_volume()
    affine = volume.affine.copy()
    affine[:3, 2] += (
        0.007 * np.linalg.norm(affine[:3, 2]) * affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    )  # 0.4 degrees
    write_nifti_image(Volume(volume.array, affine), tmp_path / "sheared.nii.gz")
    header = nib.load(tmp_path / "sheared.nii.gz").header
    assert int(header["qform_code"]) == 0
    np.testing.assert_allclose(read_volume(tmp_path / "sheared.nii.gz").affine, affine, atol=1e-4)
    write_nifti_image(volume, tmp_path / "square.nii.gz")
    assert int(nib.load(tmp_path / "square.nii.gz").header["qform_code"]) == 2
