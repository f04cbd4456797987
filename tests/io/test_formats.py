"""Which format a path has: by its name, and for DICOM by what the file begins with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from synthetic_series import Series, build_segmentation, build_series, write_dicomdir, write_file, zip_folder

from medunet.errors import VolumeError
from medunet.io.formats import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    has_suffix,
    is_dicom_file,
    is_dicom_folder,
    is_dicom_label_object,
    is_dicom_source,
    list_volumes,
    strip_suffix,
)


@pytest.fixture(scope="module")
def series() -> Series:
    return build_series(shape=(3, 4, 2))


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not what the name says")
    return folder


# ---- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, *DICOM_SUFFIXES, ".zip"])
def test_every_ending_is_stripped_in_any_case(suffix: str) -> None:
    for ending in (suffix, suffix.upper()):
        assert strip_suffix(f"p0.12{ending}") == "p0.12"
    if suffix != ".seg.nrrd":
        assert strip_suffix(suffix) == suffix  # a hidden file, not an ending


@pytest.mark.parametrize("name", ["p012", "p012.txt", "p012.nii.bz2", "nii.gz", "p012dcm"])
def test_other_names_stay_whole(name: str) -> None:
    assert strip_suffix(name) == name
    assert not has_suffix(Path(name), (*IMAGE_SUFFIXES, *DICOM_SUFFIXES))


def test_the_longer_ending_goes() -> None:
    assert strip_suffix("a.seg.nrrd") == strip_suffix("a.nrrd") == strip_suffix("a.nii.gz") == strip_suffix("a.nii")
    assert strip_suffix("a.nii.gz.nii.gz") == "a.nii.gz"


# ---- content -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IM1.dcm", "IM1", "1.2.840.113619", "IM1.txt", "x y"])
@pytest.mark.parametrize("is_part10", [True, False])
def test_dicom_is_known_by_its_content(series: Series, tmp_path: Path, name: str, is_part10: bool) -> None:
    path = write_file(series.datasets[0], tmp_path / name, is_part10=is_part10)
    assert is_dicom_file(path)
    assert is_dicom_source(path)
    assert not is_dicom_label_object(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"DICM", b"\0" * 132, b"\x1f\x8b\x08 and so on", b"dear radiologist\n" * 20, b"PK\x03\x04", b"\x89PNG"],
)
def test_other_content_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom_file(tmp_path / "file")
    assert not is_dicom_source(tmp_path / "file")
    assert not is_dicom_label_object(tmp_path / "file")


def test_a_name_that_says_dicom_is_read_as_dicom(tmp_path: Path) -> None:
    # So that a damaged slice is called damaged, rather than of an unknown format.
    fill(tmp_path, "a.dcm", "a.IMA")
    assert is_dicom_source(tmp_path / "a.dcm")
    assert is_dicom_source(tmp_path / "a.IMA")
    assert not is_dicom_source(tmp_path / "gone.dcm")


def test_row_35_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "pipe", tmp_path / "gone", tmp_path / "nothing", Path(os.devnull)):
        assert not is_dicom_file(path)
        assert not is_dicom_source(path)
        assert not is_dicom_folder(path)
        assert not is_dicom_label_object(path)


def test_zips_and_dicomdirs_are_dicom(series: Series, tmp_path: Path) -> None:
    write_dicomdir(build_series(shape=(3, 4, 2)), tmp_path / "media")
    assert is_dicom_source(tmp_path / "media" / "DICOMDIR")
    assert is_dicom_folder(tmp_path / "media")
    packed = zip_folder(series.write(tmp_path / "slices"), tmp_path / "scan.bin")
    assert is_dicom_source(packed)
    assert not is_dicom_file(packed)


# ---- folders -----------------------------------------------------------------------------------------------------------


def test_slices_make_a_folder_one_scan(series: Series, tmp_path: Path) -> None:
    assert is_dicom_folder(series.write(tmp_path / "flat"))
    series.write(tmp_path / "nested" / "a" / "b")
    assert is_dicom_folder(tmp_path / "nested")


def test_row_10_pictures_and_texts_beside_slices_do_not_make_it_many(series: Series, tmp_path: Path) -> None:
    folder = fill(series.write(tmp_path / "s"), "screenshot.png", "scan.tif", "readme.txt", "Thumbs.db", ".DS_Store")
    assert is_dicom_folder(folder)


def test_a_volume_beside_slices_makes_it_many(series: Series, tmp_path: Path) -> None:
    assert not is_dicom_folder(fill(series.write(tmp_path / "s"), "scan.nii.gz"))


@pytest.mark.parametrize("names", [[], ["a.txt"], ["a.nii.gz", "b.nrrd"], ["a.png"], [".hidden"]])
def test_folders_without_slices_are_no_scan(tmp_path: Path, names: list[str]) -> None:
    assert not is_dicom_folder(fill(tmp_path, *names))
    assert not is_dicom_label_object(tmp_path)


def test_hidden_slices_are_no_scan(series: Series, tmp_path: Path) -> None:
    # macOS writes "._IM0001.dcm" beside each file.
    write_file(series.datasets[0], tmp_path / "._IM0001.dcm")
    assert not is_dicom_folder(tmp_path)


def test_a_folder_with_one_segmentation_is_one(series: Series, tmp_path: Path) -> None:
    path = write_file(build_segmentation(series), tmp_path / "s" / "deep" / "seg")
    assert is_dicom_label_object(path)
    assert is_dicom_label_object(tmp_path / "s")
    fill(tmp_path / "s", "readme.txt")
    assert is_dicom_label_object(tmp_path / "s")
    write_file(series.datasets[0], tmp_path / "s" / "IM1")
    assert not is_dicom_label_object(tmp_path / "s")


def test_volumes_are_listed_by_name_without_what_belongs_to_them(tmp_path: Path) -> None:
    fill(
        tmp_path, "b.nii.gz", "a.NII", "c.hdr", "c.img", "d.seg.nrrd", "._a.nii", "e.png", "f.txt", "sub/g.nii", "h.mha"
    )
    names = [path.name for path in list_volumes(tmp_path)]
    assert names == ["a.NII", "b.nii.gz", "c.hdr", "d.seg.nrrd", "h.mha"]


def test_pictures_are_listed_where_nothing_else_is_there(tmp_path: Path) -> None:
    fill(tmp_path, "e.png", "d.TIFF", "f.txt", ".g.png")
    assert [path.name for path in list_volumes(tmp_path)] == ["d.TIFF", "e.png"]


def test_what_cannot_be_listed_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", fill(tmp_path, "file") / "file"):
        with pytest.raises(VolumeError, match=path.name):
            list_volumes(path)


def test_a_label_object_of_a_scan_is_told_from_it(series: Series, tmp_path: Path) -> None:
    slices = [write_file(dataset, tmp_path / f"{n}") for n, dataset in enumerate(series.datasets)]
    segmentation = write_file(build_segmentation(series), tmp_path / "seg")
    assert [is_dicom_label_object(path) for path in (*slices, segmentation)] == [False, False, True]
    assert [is_dicom_file(path) for path in (*slices, segmentation)] == [True, True, True]
