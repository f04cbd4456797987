"""Masks and images to files: the right format, every file announced, nothing left behind by a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from synthetic_series import ORIENTATIONS, assert_private, build_series

from medunet.errors import GeometryError, InputError, LabelError, MedunetError, OutputError
from medunet.io import (
    MASK_FORMATS,
    MaskFormat,
    Scan,
    StructureSet,
    choose_mask_format,
    from_label_map,
    from_masks,
    get_mask_suffix,
    list_outputs,
    read_reference,
    read_structures,
    read_volume,
    write_image,
    write_structures,
)
from medunet.io.writing import check_image_name, name_split_file
from medunet.volume import Volume

SHAPE = (6, 5, 4)
"""Columns, rows, slices."""
DICOM_FORMATS: tuple[MaskFormat, ...] = ("dicom-seg", "rtstruct")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    series = build_series(shape=(5, 6, 4), directions=ORIENTATIONS["oblique"])
    return read_reference(series.write(tmp_path_factory.mktemp("series")))


@pytest.fixture(scope="module")
def structures(scan: Scan) -> StructureSet:
    labels = np.zeros((1, *SHAPE), dtype=np.uint8)
    labels[0, 1:3, 1:4, 1:3], labels[0, 3:5, 1:4, 1:3] = 1, 2
    return from_label_map(scan.volume.with_array(labels), {"left": (1,), "right": (2,), "both": (1, 2), "none": (3,)})


@pytest.fixture
def overlapping(scan: Scan) -> StructureSet:
    first, second = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    first[1:4], second[2:5] = True, True
    return from_masks([("first", first), ("second", second)], scan.volume)


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(call: Callable[[], object], *words: str, kind: type[MedunetError]) -> None:
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert_private(text)
    for word in words:
        assert word in text, text


# ---- the format --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("m.nii.gz", None, "nifti"),
        ("M.NII", None, "nifti"),
        ("m.nii", "nifti", "nifti"),
        ("m.seg.nrrd", None, "nrrd"),
        ("m.nrrd", "nrrd", "nrrd"),
        ("m.png", None, "planar"),
        ("m.TIFF", "planar", "planar"),
        ("m.dcm", "dicom-seg", "dicom-seg"),
        ("m.DCM", "rtstruct", "rtstruct"),
        ("m.ima", "rtstruct", "rtstruct"),
    ],
)
def test_name_and_wish_give_the_format(name: str, wanted: str | None, expected: str) -> None:
    assert choose_mask_format(Path(name), wanted) == expected


@pytest.mark.parametrize("mask_format", MASK_FORMATS)
def test_the_usual_ending_fits_its_format(mask_format: MaskFormat) -> None:
    assert choose_mask_format(Path(f"m{get_mask_suffix(mask_format)}"), mask_format) == mask_format


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("m.dcm", None, ["--format dicom-seg", "--format rtstruct"]),
        ("m.dcm", "nifti", ["does not fit", "nifti", ".nii.gz"]),
        ("m.nii.gz", "rtstruct", ["does not fit", "rtstruct", ".dcm"]),
        ("m.nii.gz", "nrrd", ["does not fit", ".seg.nrrd"]),
        ("m.seg.nrrd", "planar", ["does not fit", ".tif"]),
        ("m", "dicom-seg", ["does not fit", ".dcm"]),
        ("m.txt", None, ["no mask file", ".nii.gz"]),
        ("m", None, ["no mask file"]),
        # Read, but never written: to find that out after an hour of work is too late.
        ("m.hdr", None, ["no mask file"]),
        ("m.img", "nifti", ["does not fit", ".nii.gz"]),
        ("m.nhdr", None, ["no mask file"]),
        ("m.mha", None, ["no mask file"]),
    ],
)
def test_a_name_that_contradicts_is_refused(name: str, wanted: str | None, words: list[str]) -> None:
    refuse(lambda: choose_mask_format(Path("out", name), wanted), name, *words, kind=OutputError)


def test_an_unknown_format_is_refused() -> None:
    for wanted in ("", "seg", "NIFTI", "dicom"):
        refuse(lambda wanted=wanted: choose_mask_format(Path("m.nii"), wanted), *MASK_FORMATS, kind=InputError)  # type: ignore[misc]


# ---- which files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("mask_format", ["nifti", "nrrd", "dicom-seg", "rtstruct"])
def test_every_file_is_announced(
    scan: Scan, structures: StructureSet, tmp_path: Path, mask_format: MaskFormat, split: bool
) -> None:
    path = tmp_path / "sub" / f"m{get_mask_suffix(mask_format)}"
    names = [part.name for part in structures.structures]
    announced = list_outputs(path, mask_format, names, split=split)
    written = write_structures(structures, path, mask_format=mask_format, scan=scan, split=split)
    assert written == announced
    assert sorted(written) == sorted(tmp_path / name for name in list_files(tmp_path))


@pytest.mark.parametrize("mask_format", ["nifti", "nrrd", "dicom-seg", "rtstruct"])
def test_split_structures_are_the_value_one(
    scan: Scan, structures: StructureSet, tmp_path: Path, mask_format: MaskFormat
) -> None:
    suffix = get_mask_suffix(mask_format)
    write_structures(structures, tmp_path / f"p1{suffix}", mask_format=mask_format, scan=scan, split=True)
    for part in structures.structures:
        found = read_structures(tmp_path / f"p1_{part.name}{suffix}", scan)
        assert [one.name for one in found.structures] == [part.name]
        np.testing.assert_array_equal(found.get_mask(found.structures[0]), structures.get_mask(part))
        assert set(np.unique(found.layers.array)) <= {0, 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bladder", "p.1_bladder.nii.gz"),
        ("GTV (3)", "p.1_GTV_3.nii.gz"),
        ("../../etc/passwd", "p.1_etc_passwd.nii.gz"),
        ("/abs", "p.1_abs.nii.gz"),
        ("..", "p.1_structure.nii.gz"),
        ("a\nb", "p.1_a_b.nii.gz"),
        ("Blase 体积", "p.1_Blase_体积.nii.gz"),
        ("<script>", "p.1_script.nii.gz"),
    ],
)
def test_row_41_names_become_safe_file_names(name: str, expected: str) -> None:
    assert name_split_file(Path("out/p.1.nii.gz"), name) == Path("out", expected)


def test_two_names_of_one_file_are_refused_before_anything_is_written(scan: Scan, tmp_path: Path) -> None:
    labels = scan.volume.with_array(np.ones((1, *SHAPE), dtype=np.uint8))
    same = from_label_map(labels, {"a/b": (1,), "a b": (2,)})
    refuse(lambda: write_structures(same, tmp_path / "m.nii", split=True), "m.nii", "same file", kind=OutputError)
    assert list_files(tmp_path) == {}


# ---- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_format", ["nifti", "planar"])
def test_overlaps_go_into_no_label_map(overlapping: StructureSet, tmp_path: Path, mask_format: MaskFormat) -> None:
    path = tmp_path / f"m{get_mask_suffix(mask_format)}"
    refuse(lambda: write_structures(overlapping, path), "overlap", "--split", kind=LabelError)
    assert list_files(tmp_path) == {}


def test_overlaps_go_into_no_labelmap_segmentation(scan: Scan, overlapping: StructureSet, tmp_path: Path) -> None:
    def write() -> None:
        write_structures(overlapping, tmp_path / "m.dcm", mask_format="dicom-seg", scan=scan, seg_kind="labelmap")

    refuse(write, "binary", kind=LabelError)
    assert list_files(tmp_path) == {}


@pytest.mark.parametrize("mask_format", DICOM_FORMATS)
def test_dicom_needs_slices(structures: StructureSet, tmp_path: Path, mask_format: MaskFormat) -> None:
    nifti = Scan(volume=structures.layers, path=tmp_path / "scan.nii.gz")
    for scan in (None, nifti):

        def write(scan: Scan | None = scan) -> None:
            write_structures(structures, tmp_path / "m.dcm", mask_format=mask_format, scan=scan)

        refuse(write, mask_format, "--reference", kind=InputError)
    assert list_files(tmp_path) == {}


@pytest.mark.parametrize("mask_format", DICOM_FORMATS)
@pytest.mark.parametrize("shift", [0.5, -1.0])
def test_row_46_a_mask_beside_the_slices_is_refused(
    scan: Scan, structures: StructureSet, tmp_path: Path, mask_format: MaskFormat, shift: float
) -> None:
    affine = structures.layers.affine.copy()
    affine[:3, 3] += shift * affine[:3, 2]
    moved = StructureSet(layers=Volume(structures.layers.array, affine), structures=structures.structures)

    def write() -> None:
        write_structures(moved, tmp_path / "m.dcm", mask_format=mask_format, scan=scan)

    refuse(write, "m.dcm", str(scan.path), "mm apart", kind=GeometryError)
    assert list_files(tmp_path) == {}


def test_row_33_a_mask_beside_its_nifti_scan_is_refused(structures: StructureSet, tmp_path: Path) -> None:
    affine = structures.layers.affine.copy()
    affine[0, 3] += 0.5
    write_image(Volume(structures.layers.array.astype(np.int16), affine), tmp_path / "scan.nii.gz")
    scan = Scan(volume=read_volume(tmp_path / "scan.nii.gz"), path=tmp_path / "scan.nii.gz")
    before = list_files(tmp_path)
    refuse(lambda: write_structures(structures, tmp_path / "m.nii", scan=scan), "scan.nii.gz", kind=GeometryError)
    assert list_files(tmp_path) == before


@pytest.mark.parametrize("mask_format", MASK_FORMATS)
def test_row_59_a_full_disk_keeps_the_older_file(
    scan: Scan, structures: StructureSet, tmp_path: Path, mask_format: MaskFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    if mask_format == "planar":  # knows no place in the world
        grid = Volume(structures.layers.array, np.diag([-1.0, -1.0, 1.0, 1.0]))
        structures = StructureSet(layers=grid, structures=structures.structures)
    path = tmp_path / f"m{get_mask_suffix(mask_format)}"
    path.write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", fail)

    def write() -> None:
        write_structures(structures, path, mask_format=mask_format, scan=None if mask_format == "planar" else scan)

    refuse(write, str(path), "disk is full", kind=OutputError)
    assert list_files(tmp_path) == {path.name: b"precious"}


# ---- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["i.nii.gz", "i.nii", "i.nrrd", "I.NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_an_image_keeps_voxels_and_place(make_volume: Any, tmp_path: Path, name: str, dtype: Any) -> None:
    volume = make_volume(num_channels=2, dtype=np.float32)
    volume = volume.with_array(volume.array.clip(0, 250).astype(dtype))
    write_image(volume, tmp_path / name)
    found = read_volume(tmp_path / name)
    np.testing.assert_array_equal(found.array, volume.array)
    assert found.array.dtype == dtype
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-5)


@pytest.mark.parametrize("name", ["i.png", "i.mha", "i.hdr", "i.nhdr", "i.dcm", "i", "i.nii.bz2"])
def test_an_image_of_another_name_is_refused(make_volume: Any, tmp_path: Path, name: str) -> None:
    for call in (check_image_name, lambda path: write_image(make_volume(), path)):
        refuse(lambda call=call: call(tmp_path / name), name, ".nii.gz", ".nrrd", kind=OutputError)  # type: ignore[misc]
    assert list_files(tmp_path) == {}


def test_a_description_stands_in_nifti_only(structures: StructureSet, tmp_path: Path) -> None:
    write_structures(structures, tmp_path / "m.nii", description="medunet 1 pelvis")
    header: Any = nib.load(tmp_path / "m.nii").header
    assert bytes(header["descrip"]).rstrip(b"\0") == b"medunet 1 pelvis"
