"""Any path to a scan, a label map or structures: the same voxels at the same places, whatever the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from synthetic_series import (
    ORIENTATIONS,
    Series,
    assert_private,
    build_enhanced,
    build_segmentation,
    build_series,
    check_exact,
    write_dicomdir,
    write_file,
    zip_folder,
)

from medunet.errors import GeometryError, InputError, LabelError, MedunetError, VolumeError
from medunet.io import (
    ReadOptions,
    StructureSet,
    from_label_map,
    from_masks,
    merge_options,
    read_channels,
    read_label_map,
    read_reference,
    read_scan,
    read_structures,
    read_volume,
    to_lps_image,
    write_image,
    write_structures,
)
from medunet.io.reading import has_structure_names
from medunet.volume import Volume, is_same_grid, to_orientation

SHAPE = (9, 7, 8)
"""Columns, rows, slices of the series."""


@pytest.fixture(scope="module")
def series() -> Series:
    return build_series("MR", offset=4000.0)


@pytest.fixture(scope="module")
def folder(series: Series, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return series.write(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def structures(folder: Path) -> StructureSet:
    grid = read_reference(folder).volume
    box, ring = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    box[1:5, 2:6, 1:4] = True
    ring[4:8, 1:5, 2:7] = True
    ring[5, 3, 4] = False
    return from_masks([("box", box), ("ring", ring)], grid)


def refuse(call: Callable[[], object], *words: str, kind: type[MedunetError] = VolumeError) -> None:
    """The call raises one line of its kind that holds all the words and nothing of the patient."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert_private(text)
    for word in words:
        assert word in text, text


# ---- scans -------------------------------------------------------------------------------------------------------------


def write_simpleitk(folder: Path, path: Path) -> Path:
    volume = read_volume(folder)
    image = to_lps_image(volume.with_array(np.zeros(volume.shape, dtype=np.uint8)))  # only its place
    other = SimpleITK.GetImageFromArray(volume.array[0].transpose(2, 1, 0))
    other.CopyInformation(image)
    SimpleITK.WriteImage(other, str(path))
    return path


def write_own(folder: Path, path: Path) -> Path:
    write_image(read_volume(folder), path)
    return path


@pytest.mark.parametrize("name", ["s.nii.gz", "S.NII", "s.nrrd", "s.mha", "s.mhd", "s.zip", "no-ending", "folder"])
def test_every_format_gives_the_same_places(series: Series, folder: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.lower().endswith((".nii.gz", ".nii", ".nrrd")):
        write_own(folder, path)
    elif name.endswith((".mha", ".mhd")):
        write_simpleitk(folder, path)
    elif name == "folder":
        series.write(path / "a" / "b")
    else:
        zip_folder(folder, path)
    scan = read_scan(path)
    check_exact(scan.volume, series.slices)
    assert scan.path == path
    assert (scan.stack is not None) == (name in ("s.zip", "no-ending", "folder"))
    np.testing.assert_array_equal(read_volume(str(path)).array, scan.volume.array)


def test_a_dicomdir_and_a_multi_frame_file_are_read_by_their_paths(tmp_path: Path) -> None:
    series, enhanced = build_series(), build_enhanced("CT")
    write_dicomdir(series, tmp_path / "media")
    check_exact(read_volume(tmp_path / "media" / "DICOMDIR"), series.slices)
    enhanced.write(tmp_path / "enhanced")
    check_exact(read_volume(tmp_path / "enhanced" / "enhanced.dcm"), enhanced.slices)


@pytest.mark.parametrize("name", ["a.txt", "a.nii.bz2", "a.gif", "a"])
def test_other_files_are_refused_with_what_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("dear radiologist")
    refuse(lambda: read_scan(tmp_path / name), name, ".nii.gz", ".nrrd", "DICOM")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.png", "a.dcm", "a"])
def test_row_35_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"link-{name}").symlink_to(tmp_path / "nowhere")
    for read in (read_scan, read_label_map, read_structures, read_reference):
        refuse(lambda read=read: read(tmp_path / name), name, "pipe")  # type: ignore[misc]
        refuse(lambda read=read: read(tmp_path / f"link-{name}"), f"link-{name}", "gone")  # type: ignore[misc]
        refuse(lambda read=read: read(tmp_path / f"no-{name}"), f"no-{name}", "does not exist")  # type: ignore[misc]


def test_row_26_a_folder_without_slices(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    refuse(lambda: read_scan(tmp_path), "No DICOM images", "1 files seen")


def test_an_unknown_option_is_named(folder: Path) -> None:
    refuse(lambda: read_volume(folder, serie="t2"), "'serie'", "volume_index", kind=InputError)
    assert merge_options(ReadOptions(series="t2"), {"volume_index": 3}) == ReadOptions(series="t2", volume_index=3)
    assert merge_options(None, {}) == ReadOptions()


def test_options_reach_the_reader(folder: Path) -> None:
    refuse(lambda: read_volume(folder, modality="CT"), "no series of modality CT", "MR")
    refuse(lambda: read_volume(folder, series="7"), "'7'")
    assert read_volume(folder, ReadOptions(modality="CT"), modality="MR").spatial_shape == SHAPE


# ---- channels ----------------------------------------------------------------------------------------------------------


def test_a_list_is_one_channel_each(series: Series, folder: Path, tmp_path: Path) -> None:
    turned = to_orientation(read_volume(folder), "SRA")
    write_image(turned.with_array(turned.array.astype(np.float32) + 0.5), tmp_path / "other.nii.gz")
    scan = read_scan([folder, tmp_path / "other.nii.gz"])
    assert (scan.volume.num_channels, scan.volume.array.dtype, scan.path) == (2, np.float32, folder)
    assert scan.stack is not None
    first, second = (Volume(channel[None], scan.volume.affine) for channel in scan.volume.array)
    check_exact(first, series.slices)
    np.testing.assert_array_equal(second.array, first.array + 0.5)
    alone = read_scan([folder])
    assert alone.volume.num_channels == 1


def test_no_channel_is_refused() -> None:
    for read in (read_scan, read_channels):
        refuse(lambda read=read: read([]), "empty list")  # type: ignore[misc]


def test_the_fault_of_a_channel_is_that_of_its_file(folder: Path, tmp_path: Path) -> None:
    refuse(lambda: read_channels([folder, tmp_path / "t1.nii.gz"]), "t1.nii.gz", "does not exist")


def test_integers_beside_floats_stay_small(folder: Path, tmp_path: Path) -> None:
    grid = read_volume(folder)
    for name, dtype in (("a", np.int32), ("b", np.float32)):
        write_image(grid.with_array(grid.array.astype(dtype)), tmp_path / f"{name}.nii.gz")
    assert read_channels([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]).array.dtype == np.float32


def test_row_22_channels_of_two_frames_of_reference_are_refused(folder: Path, tmp_path: Path) -> None:
    # The same numbers mean another place.
    other = build_series("MR", offset=4000.0).write(tmp_path / "other")
    refuse(lambda: read_channels([folder, other]), str(folder), str(other), "frames of reference", kind=GeometryError)


def test_channels_of_one_frame_of_reference_are_joined(series: Series, folder: Path, tmp_path: Path) -> None:
    other = build_series("MR", offset=4000.0, like=series, number=4).write(tmp_path / "other")
    volume = read_channels([folder, other])
    np.testing.assert_array_equal(volume.array[0], volume.array[1])


# ---- references --------------------------------------------------------------------------------------------------------


def test_a_reference_has_the_grid_and_the_slices_of_the_scan(folder: Path) -> None:
    scan, reference = read_scan(folder), read_reference(str(folder))
    np.testing.assert_array_equal(reference.volume.affine, scan.volume.affine)
    assert reference.volume.spatial_shape == scan.volume.spatial_shape
    assert reference.volume.array.strides == (0, 0, 0, 0)  # no voxel is in memory
    assert reference.stack is not None
    assert scan.stack is not None
    assert [frame.file for frame in reference.stack.frames] == [frame.file for frame in scan.stack.frames]
    assert reference.path == folder


def test_a_reference_that_is_no_series_is_refused(folder: Path, tmp_path: Path) -> None:
    write_own(folder, tmp_path / "scan.nii.gz")
    refuse(lambda: read_reference(tmp_path / "scan.nii.gz"), "scan.nii.gz", "No DICOM images")


def test_row_8_a_reference_of_two_series_is_ambiguous(series: Series, tmp_path: Path) -> None:
    series.write(tmp_path / "a")
    build_series("MR", number=4, description="t2", offset=4000.0).write(tmp_path / "b")
    refuse(lambda: read_reference(tmp_path), "2 series", "--series")
    assert read_reference(tmp_path, ReadOptions(series="t2")).path == tmp_path


# ---- label maps --------------------------------------------------------------------------------------------------------


def test_a_label_map_is_one_from_any_format(structures: StructureSet, folder: Path, tmp_path: Path) -> None:
    scan = read_reference(folder)
    apart = from_label_map(scan.volume.with_array((structures.layers.array[:1] > 0).astype(np.uint8)), {"box": (1,)})
    write_structures(apart, tmp_path / "m.nii.gz")
    write_structures(apart, tmp_path / "m.seg.nrrd")
    write_structures(apart, tmp_path / "m.dcm", mask_format="dicom-seg", scan=scan)
    for name in ("m.nii.gz", "m.seg.nrrd", "m.dcm"):
        found = read_label_map(tmp_path / name)
        assert found.array.dtype.kind in "iu"
        turned = to_orientation(found, scan.volume.orientation)
        np.testing.assert_array_equal(turned.array, apart.layers.array)
        assert is_same_grid(turned, apart.layers)


def test_overlapping_structures_are_no_label_map(structures: StructureSet, folder: Path, tmp_path: Path) -> None:
    write_structures(structures, tmp_path / "m.dcm", mask_format="dicom-seg", scan=read_reference(folder))
    refuse(lambda: read_label_map(tmp_path / "m.dcm"), "overlap", "--split", kind=LabelError)
    write_structures(structures, tmp_path / "m.seg.nrrd")
    refuse(lambda: read_label_map(tmp_path / "m.seg.nrrd"), "m.seg.nrrd", kind=LabelError)


def test_row_32_an_image_is_no_label_map(folder: Path, tmp_path: Path) -> None:
    volume = read_volume(folder)
    write_image(volume.with_array(volume.array + np.float32(0.25)), tmp_path / "image.nii.gz")
    refuse(lambda: read_label_map(tmp_path / "image.nii.gz"), "image.nii.gz", kind=LabelError)


# ---- structures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["RAS", "SPL", "AIL"])
@pytest.mark.parametrize("name", ["m.nii.gz", "m.seg.nrrd"])
def test_a_mask_along_other_axes_is_turned_to_the_scan(
    structures: StructureSet, folder: Path, tmp_path: Path, orientation: str, name: str
) -> None:
    single = from_label_map(Volume(structures.layers.array[:1], structures.layers.affine), {"box": (1,)})
    turned = StructureSet(layers=to_orientation(single.layers, orientation), structures=single.structures)
    write_structures(turned, tmp_path / name)
    found = read_structures(tmp_path / name, read_reference(folder))
    assert is_same_grid(found.layers, single.layers)
    np.testing.assert_array_equal(found.layers.array, single.layers.array)
    assert found.structures == single.structures


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_row_46_a_mask_beside_the_scan_is_refused(
    structures: StructureSet, folder: Path, tmp_path: Path, shift: float
) -> None:
    affine = structures.layers.affine.copy()
    affine[:3, 3] += shift * affine[:3, 1]
    moved = StructureSet(layers=Volume(structures.layers.array[:1], affine), structures=structures.structures[:1])
    write_structures(moved, tmp_path / "m.nii.gz")
    scan = read_reference(folder)
    refuse(
        lambda: read_structures(tmp_path / "m.nii.gz", scan), "m.nii.gz", str(folder), "mm apart", kind=GeometryError
    )


def test_values_without_names_are_named_by_themselves(folder: Path, tmp_path: Path) -> None:
    grid = read_reference(folder).volume
    labels = np.zeros((1, *SHAPE), dtype=np.int16)
    labels[0, 1], labels[0, 2], labels[0, 3, 3, 3] = 2, 300, 7
    write_image(grid.with_array(labels), tmp_path / "m.nii.gz")
    found = read_structures(tmp_path / "m.nii.gz")
    assert {part.name: int(found.get_mask(part).sum()) for part in found.structures} == {
        "label 2": 56,
        "label 7": 1,
        "label 300": 56,
    }


def test_row_32_an_image_is_not_taken_for_a_thousand_labels(folder: Path, tmp_path: Path) -> None:
    grid = Volume(np.zeros((1, 11, 10, 10), dtype=np.int16), np.eye(4))
    write_image(grid.with_array(np.arange(1100, dtype=np.int16).reshape(grid.shape)), tmp_path / "image.nii")
    refuse(lambda: read_structures(tmp_path / "image.nii"), "image.nii", "1099 different values", kind=LabelError)
    write_image(grid.with_array((np.arange(1100, dtype=np.int16) // 2).reshape(grid.shape)), tmp_path / "atlas.nii")
    assert len(read_structures(tmp_path / "atlas.nii").structures) == 549


def test_contours_need_the_series_they_were_drawn_on(structures: StructureSet, folder: Path, tmp_path: Path) -> None:
    scan = read_reference(folder)
    write_structures(structures, tmp_path / "rt.dcm", mask_format="rtstruct", scan=scan)
    refuse(lambda: read_structures(tmp_path / "rt.dcm"), "rt.dcm", "RTSTRUCT", "--reference")
    write_own(folder, tmp_path / "scan.nii.gz")
    refuse(lambda: read_structures(tmp_path / "rt.dcm", read_scan(tmp_path / "scan.nii.gz")), "rt.dcm", "--reference")
    found = read_structures(tmp_path / "rt.dcm", scan)
    for one, other in zip(found.structures, structures.structures, strict=True):
        np.testing.assert_array_equal(found.get_mask(one), structures.get_mask(other))


def test_a_folder_must_hold_one_object(series: Series, structures: StructureSet, folder: Path, tmp_path: Path) -> None:
    scan = read_reference(folder)
    slices = series.write(tmp_path / "mixed")
    refuse(lambda: read_structures(slices), "mixed", "0 SEG or RTSTRUCT", "expected one")
    write_structures(structures, slices / "seg.dcm", mask_format="dicom-seg", scan=scan)
    assert [part.name for part in read_structures(slices, scan).structures] == ["box", "ring"]
    write_structures(structures, slices / "rt.dcm", mask_format="rtstruct", scan=scan)
    refuse(lambda: read_structures(slices), "2 SEG or RTSTRUCT", "seg.dcm", "rt.dcm", "path of the file")


def test_a_slice_holds_no_structures(series: Series, tmp_path: Path) -> None:
    slices = series.write(tmp_path / "s")
    refuse(lambda: read_structures(slices / series.names[0]), series.names[0], "no DICOM SEG or RTSTRUCT")


def test_row_46_a_segmentation_of_another_scan_is_refused(
    structures: StructureSet, folder: Path, tmp_path: Path
) -> None:
    write_structures(structures, tmp_path / "seg.dcm", mask_format="dicom-seg", scan=read_reference(folder))
    other = build_series("MR", directions=ORIENTATIONS["axial"], offset=4000.0).write(tmp_path / "other")
    refuse(lambda: read_structures(tmp_path / "seg.dcm", read_reference(other)), "seg.dcm", kind=GeometryError)


# ---- names -------------------------------------------------------------------------------------------------------------


def test_whether_names_or_values_tell_structures_apart(
    series: Series, structures: StructureSet, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = read_reference(folder)
    single = StructureSet(
        layers=Volume(structures.layers.array[:1], structures.layers.affine), structures=structures.structures[:1]
    )
    write_structures(single, tmp_path / "named.nii.gz")
    (tmp_path / "named.json").unlink()  # the name stands in the file too
    write_image(single.layers, tmp_path / "values.nii.gz")
    write_image(single.layers, tmp_path / "beside.nii.gz")
    write_structures(single, tmp_path / "x.nii.gz")
    (tmp_path / "x.json").rename(tmp_path / "beside.json")
    write_image(single.layers, tmp_path / "values.nrrd")
    write_structures(structures, tmp_path / "named.seg.nrrd")
    (tmp_path / "named.seg.nrrd").rename(tmp_path / "named.nrrd")  # as Slicer lets people call it
    write_structures(structures, tmp_path / "seg.dcm", mask_format="dicom-seg", scan=scan)
    write_file(build_segmentation(series), tmp_path / "alone" / "seg")
    slices = series.write(tmp_path / "slices")
    (tmp_path / "bids.json").write_text('{"Manufacturer": "x"}')
    write_image(single.layers, tmp_path / "bids.nii.gz")

    expected = {
        "named.nii.gz": True,
        "values.nii.gz": False,
        "beside.nii.gz": True,
        "bids.nii.gz": False,
        "values.nrrd": False,
        "named.nrrd": True,
        "seg.dcm": True,
        "alone": True,
        "slices": False,
    }
    with caplog.at_level(logging.WARNING):
        assert {name: has_structure_names(tmp_path / name) for name in expected} == expected
    assert not has_structure_names(slices / series.names[0])
    assert not caplog.messages
    refuse(lambda: has_structure_names(tmp_path / "gone.nrrd"), "gone.nrrd")
