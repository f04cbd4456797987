"""``medunet convert`` through its real entry point: exact places, the right names, and every refusal in one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from oracles import Outcome
from synthetic_series import (
    GRADIENT,
    Series,
    assert_private,
    build_enhanced,
    build_series,
    check_exact,
    check_linear,
    to_homogeneous,
    write_dicomdir,
    zip_folder,
)

from medunet.io import (
    Scan,
    StructureSet,
    from_label_map,
    from_masks,
    read_label_map,
    read_reference,
    read_structures,
    read_volume,
    write_image,
    write_structures,
)
from medunet.volume import to_orientation, turn_to_grid

Convert = Callable[..., Outcome]
TASK = """
name: pelvis-test
title: Two organs
modality: CT
channels: [ct]
labels: {prostate: 1, bladder: 2, rectum: 5}
synonyms: {bladder: [Blase]}
intensity: none
codes: {prostate: {value: "41216001", meaning: Prostate}}
"""
REGIONS = """
name: tumour-test
title: Regions
modality: CT
channels: [ct]
labels: {whole: [1, 2, 3], core: [2, 3], enhancing: [3]}
intensity: none
"""


@pytest.fixture
def convert(medunet_command: Callable[..., Outcome]) -> Convert:
    """The command; nothing of the patient is ever printed."""

    def call(*arguments: object) -> Outcome:
        outcome = medunet_command("convert", *arguments)
        assert_private(outcome.out + outcome.err)
        return outcome

    return call


@pytest.fixture(scope="module")
def series() -> Series:
    return build_series()


@pytest.fixture
def folder(series: Series, tmp_path: Path) -> Path:
    return series.write(tmp_path / "series")


@pytest.fixture(scope="module")
def grid(series: Series, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return read_reference(series.write(tmp_path_factory.mktemp("grid")))


@pytest.fixture(scope="module")
def structures(grid: Scan) -> StructureSet:
    """Prostate with a hole that touches the bladder, a rectum of one voxel; values that mean others in `TASK`."""
    labels = np.zeros(grid.volume.shape, dtype=np.uint8)
    labels[0, 1:5, 1:5, 1:5], labels[0, 5:8, 1:5, 1:5] = 2, 1
    labels[0, 3, 3, 3], labels[0, 8, 6, 7] = 0, 3
    values = {"prostate": (2,), "bladder": (1,), "rectum": (3,)}
    return from_label_map(grid.volume.with_array(labels), values)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path / "task.yaml"


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_same(found: StructureSet, meant: StructureSet) -> None:
    """The same names and voxels; the axes may run otherwise."""
    assert [part.name for part in found.structures] == [part.name for part in meant.structures]
    turned = StructureSet(layers=turn_to_grid(found.layers, meant.layers), structures=found.structures)
    np.testing.assert_allclose(turned.layers.affine, meant.layers.affine, atol=1e-4)
    for one, other in zip(turned.structures, meant.structures, strict=True):
        np.testing.assert_array_equal(turned.get_mask(one), meant.get_mask(other))


# ---- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.nrrd", "new/deep/scan.nii.gz"])
def test_a_series_becomes_a_volume(convert: Convert, series: Series, folder: Path, tmp_path: Path, name: str) -> None:
    outcome = convert(folder, "-o", tmp_path / name)
    assert (outcome.exit_code, outcome.err) == (0, "")
    check_exact(read_volume(tmp_path / name), series.slices)
    assert "9x7x8" in outcome.out
    assert name in outcome.out
    assert not (tmp_path / name).with_suffix("").with_suffix(".json").exists()


def test_another_reader_finds_every_value_at_its_place(
    convert: Convert, series: Series, folder: Path, tmp_path: Path
) -> None:
    convert(folder, "-o", tmp_path / "scan.nii.gz")
    image: Any = nib.load(tmp_path / "scan.nii.gz")
    points = nib.affines.apply_affine(image.affine, np.argwhere(np.ones(image.shape)))
    tolerance = max(one.tolerance for one in series.slices) + 0.01 * np.linalg.norm(GRADIENT)
    assert np.abs(series.field(points) - image.get_fdata().ravel()).max() < tolerance


def test_a_zip_a_dicomdir_and_a_multi_frame_file_too(convert: Convert, tmp_path: Path) -> None:
    series, enhanced = build_series(), build_enhanced("CT")
    write_dicomdir(series, tmp_path / "media")
    zip_folder(tmp_path / "media", tmp_path / "scan.zip")
    enhanced.write(tmp_path / "enhanced")
    for number, (source, truth) in enumerate(
        [
            (tmp_path / "media" / "DICOMDIR", series),
            (tmp_path / "media", series),
            (tmp_path / "scan.zip", series),
            (tmp_path / "enhanced" / "enhanced.dcm", enhanced),
        ]
    ):
        assert convert(source, "-o", tmp_path / f"{number}.nii.gz").exit_code == 0
        check_exact(read_volume(tmp_path / f"{number}.nii.gz"), truth.slices)


def test_a_tilted_series_is_straightened_and_says_so(convert: Convert, tmp_path: Path) -> None:
    series = build_series(tilt_degrees=15.0)
    outcome = convert(series.write(tmp_path / "tilted"), "-o", tmp_path / "scan.nii.gz")
    assert outcome.exit_code == 0
    assert "15.0 degrees" in outcome.err
    check_linear(read_volume(tmp_path / "scan.nii.gz"), series)


def test_series_and_volume_are_chosen(convert: Convert, folder: Path, tmp_path: Path) -> None:
    other = build_series(number=12, description="t2 axial")
    other.write(folder / "other")
    twin = build_enhanced("MR", volumes=2)
    twin.write(tmp_path / "twin")
    convert(folder, "-o", tmp_path / "a.nii").check_refused(
        "2 series", "--series", "'t2 axial'", "series 3", "series 12"
    )
    for number, choice in enumerate(("12", "T2", other.datasets[0].SeriesInstanceUID)):
        assert convert(folder, "-o", tmp_path / f"{number}.nii", "--series", choice).exit_code == 0
        check_exact(read_volume(tmp_path / f"{number}.nii"), other.slices)
    convert(tmp_path / "twin", "-o", tmp_path / "a.nii").check_refused("2 volumes", "--volume-index")
    assert convert(tmp_path / "twin", "-o", tmp_path / "b.nii", "--volume-index", 1).exit_code == 0
    check_exact(read_volume(tmp_path / "b.nii"), twin.slices[8:])
    assert not (tmp_path / "a.nii").exists()


def test_row_1_a_missing_slice_is_named_and_filled_on_request_only(convert: Convert, tmp_path: Path) -> None:
    series = build_series().drop(3)
    folder = series.write(tmp_path / "gap")
    convert(folder, "-o", tmp_path / "s.nii").check_refused("5.00 mm", *series.names[2:4], "--allow-gaps")
    outcome = convert(folder, "-o", tmp_path / "s.nii", "--allow-gaps")
    assert outcome.exit_code == 0
    assert "uneven distances" in outcome.err
    check_linear(read_volume(tmp_path / "s.nii"), series)


def test_one_volume_of_four(convert: Convert, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (5, 6, 7, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([1, 2, 3, 1])), tmp_path / "four.nii")
    assert convert(tmp_path / "four.nii", "-o", tmp_path / "all.nrrd").exit_code == 0
    assert read_volume(tmp_path / "all.nrrd").num_channels == 3
    assert convert(tmp_path / "four.nii", "-o", tmp_path / "one.nrrd", "--volume-index", 2).exit_code == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "one.nrrd").array[0], array[..., 2])
    convert(tmp_path / "four.nii", "-o", tmp_path / "x.nrrd", "--volume-index", 3).check_refused(
        "3 volume(s)", "0 to 2"
    )


# ---- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["RAS", "SPL"])
@pytest.mark.parametrize("mask_format", ["dicom-seg", "rtstruct"])
def test_a_nifti_mask_becomes_dicom_and_comes_back(
    convert: Convert, structures: StructureSet, folder: Path, tmp_path: Path, mask_format: str, axes: str
) -> None:
    # As another tool hands it over: along other axes, without slices.
    turned = StructureSet(layers=to_orientation(structures.layers, axes), structures=structures.structures)
    write_structures(turned, tmp_path / "mask.nii.gz")
    (tmp_path / "mask.json").unlink()
    dicom = ("-o", tmp_path / "mask.dcm", "--format", mask_format, "--reference", folder)
    outcome = convert(tmp_path / "mask.nii.gz", *dicom)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert re.search(r"prostate: 0\.2 ml\n", outcome.out), outcome.out  # 63 voxels of 2.6 mm³
    written = pydicom.dcmread(tmp_path / "mask.dcm")
    assert written.Modality == {"dicom-seg": "SEG", "rtstruct": "RTSTRUCT"}[mask_format]
    assert written.PatientName == "CANARY^PATIENT"
    for target in ("back.nii.gz", "back.seg.nrrd"):
        outcome = convert(tmp_path / "mask.dcm", "-o", tmp_path / target, "--reference", folder)
        assert (outcome.exit_code, outcome.err) == (0, "")
        assert_same(read_structures(tmp_path / target), structures)


def test_a_segmentation_needs_no_reference(
    convert: Convert, structures: StructureSet, grid: Scan, tmp_path: Path
) -> None:
    write_structures(structures, tmp_path / "seg.dcm", mask_format="dicom-seg", scan=grid)
    (tmp_path / "only").mkdir()
    (tmp_path / "seg.dcm").rename(tmp_path / "only" / "object")
    for source in (tmp_path / "only" / "object", tmp_path / "only"):
        assert convert(source, "-o", tmp_path / "m.seg.nrrd", "--overwrite").exit_code == 0
        assert convert(tmp_path / "m.seg.nrrd", "-o", tmp_path / "m.nii.gz", "--overwrite").exit_code == 0
        assert_same(read_structures(tmp_path / "m.nii.gz"), structures)


def test_contours_need_a_reference(convert: Convert, structures: StructureSet, grid: Scan, tmp_path: Path) -> None:
    write_structures(structures, tmp_path / "rt.dcm", mask_format="rtstruct", scan=grid)
    convert(tmp_path / "rt.dcm", "-o", tmp_path / "m.nii.gz").check_refused("rt.dcm", "RTSTRUCT", "--reference")
    assert not (tmp_path / "m.nii.gz").exists()


@pytest.mark.parametrize("mask_format", ["dicom-seg", "rtstruct"])
def test_dicom_out_needs_a_reference(
    convert: Convert, structures: StructureSet, grid: Scan, tmp_path: Path, mask_format: str
) -> None:
    write_structures(structures, tmp_path / "m.nii.gz")
    write_structures(structures, tmp_path / "seg.dcm", mask_format="dicom-seg", scan=grid)
    before = snapshot(tmp_path)
    for source in ("m.nii.gz", "seg.dcm"):
        refused = convert(tmp_path / source, "-o", tmp_path / "out.dcm", "--format", mask_format)
        refused.check_refused(mask_format, "--reference")
    assert snapshot(tmp_path) == before


def test_names_beside_a_mask_count(convert: Convert, structures: StructureSet, tmp_path: Path) -> None:
    write_structures(structures, tmp_path / "m.nii.gz")
    write_image(structures.layers, tmp_path / "m.nii.gz")  # without the names in its header
    assert convert(tmp_path / "m.nii.gz", "-o", tmp_path / "m.seg.nrrd").exit_code == 0
    assert_same(read_structures(tmp_path / "m.seg.nrrd"), structures)
    names = json.loads((tmp_path / "m.json").read_text())["medunet"]["labels"]
    assert [label["name"] for label in names] == ["prostate", "bladder", "rectum"]


def test_segments_in_a_plain_nrrd_keep_their_names(convert: Convert, structures: StructureSet, tmp_path: Path) -> None:
    write_structures(structures, tmp_path / "m.seg.nrrd")
    (tmp_path / "m.seg.nrrd").rename(tmp_path / "Segmentation.nrrd")
    assert convert(tmp_path / "Segmentation.nrrd", "-o", tmp_path / "m.nii.gz").exit_code == 0
    assert_same(read_structures(tmp_path / "m.nii.gz"), structures)


def test_overlapping_structures_need_files_of_their_own(convert: Convert, grid: Scan, tmp_path: Path) -> None:
    first, second = np.zeros(grid.volume.spatial_shape, dtype=bool), np.zeros(grid.volume.spatial_shape, dtype=bool)
    first[1:6], second[4:8, 2:] = True, True
    overlapping = from_masks([("CTV p", first), ("GTV/1", second)], grid.volume)
    write_structures(overlapping, tmp_path / "rt.dcm", mask_format="rtstruct", scan=grid)
    back = ("--reference", grid.path)
    convert(tmp_path / "rt.dcm", "-o", tmp_path / "m.nii.gz", *back).check_refused("'CTV p'", "'GTV/1'", "--split")
    assert not (tmp_path / "m.nii.gz").exists()
    outcome = convert(tmp_path / "rt.dcm", "-o", tmp_path / "m.nii.gz", "--split", *back)
    assert outcome.exit_code == 0
    for name, mask in (("m_CTV_p.nii.gz", first), ("m_GTV_1.nii.gz", second)):
        assert name in outcome.out
        np.testing.assert_array_equal(read_label_map(tmp_path / name).array[0], mask)
    assert convert(tmp_path / "rt.dcm", "-o", tmp_path / "m.seg.nrrd", *back).exit_code == 0
    assert_same(read_structures(tmp_path / "m.seg.nrrd"), overlapping)
    labelmap = ("--format", "dicom-seg", "--seg-type", "labelmap")
    convert(tmp_path / "rt.dcm", "-o", tmp_path / "s.dcm", *labelmap, *back).check_refused("binary")


def test_a_mask_of_a_tilted_series_lies_on_the_original_slices(convert: Convert, tmp_path: Path) -> None:
    series = build_series(tilt_degrees=12.0, shape=(16, 18, 12))
    folder = series.write(tmp_path / "tilted")
    convert(folder, "-o", tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz")
    bright = scan.with_array((scan.array > 300).astype(np.uint8))
    write_image(bright, tmp_path / "mask.nii.gz")
    for mask_format in ("dicom-seg", "rtstruct"):
        path = tmp_path / f"{mask_format}.dcm"
        dicom = ("--format", mask_format, "--reference", folder)
        assert convert(tmp_path / "mask.nii.gz", "-o", path, *dicom).exit_code == 0
        assert convert(path, "-o", tmp_path / "back.seg.nrrd", "--reference", folder, "--overwrite").exit_code == 0

    # Each frame lies exactly on a slice of the scanner, and shows what is bright there, but for the shear's rounding.
    segmentation = pydicom.dcmread(tmp_path / "dicom-seg.dcm")
    planes = {tuple(np.round(truth.plane[:3, 3], 4)): truth for truth in series.slices}
    frames = segmentation.pixel_array
    assert len(frames) == len(planes)
    for group, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        truth = planes.pop(tuple(np.round(np.array(position, dtype=float), 4)))
        edge = 0.6 * np.abs(np.array(GRADIENT)) @ (1.3, 1.3, 2.5)
        is_clear = np.abs(truth.values - 300) > edge
        is_clear[[0, -1]] = False  # the sheared grid has no value half a pixel beyond the border
        assert is_clear.mean() > 0.3
        np.testing.assert_array_equal(frame[is_clear], truth.values[is_clear] > 300)

    # Contours too: each lies on a plane of the scanner.
    contours = pydicom.dcmread(tmp_path / "rtstruct.dcm").ROIContourSequence[0].ContourSequence
    inverses = [np.linalg.inv(truth.plane) for truth in series.slices]
    for contour in contours:
        points = to_homogeneous(np.array(contour.ContourData, dtype=float).reshape(-1, 3))
        assert min(np.abs((points @ inverse.T)[:, 2]).max() for inverse in inverses) < 1e-3


# ---- names of a task ---------------------------------------------------------------------------------------------------


def test_values_are_named_by_the_task(
    convert: Convert, structures: StructureSet, folder: Path, task: Path, tmp_path: Path
) -> None:
    labels = structures.layers.with_array(np.array([0, 1, 2, 5], dtype=np.uint8)[structures.layers.array])
    write_image(labels, tmp_path / "values.nii.gz")
    dicom = ("--format", "dicom-seg", "--reference", folder)
    outcome = convert(tmp_path / "values.nii.gz", "-o", tmp_path / "seg.dcm", "--task", task, *dicom)
    assert outcome.exit_code == 0, outcome.err
    found = read_structures(tmp_path / "seg.dcm", read_reference(folder))
    for name, value in (("prostate", 1), ("bladder", 2), ("rectum", 5)):
        part = next(one for one in found.structures if one.name == name)
        np.testing.assert_array_equal(found.get_mask(part), labels.array[0] == value)
    assert found.structures[0].code is not None
    assert found.structures[0].code.value == "41216001"


@pytest.mark.parametrize("name", ["named.nii.gz", "named.seg.nrrd", "named.dcm"])
def test_names_in_a_file_count_before_its_values(
    convert: Convert, structures: StructureSet, grid: Scan, task: Path, tmp_path: Path, name: str
) -> None:
    # Here 2 is the prostate and 1 the bladder, for the task it is the other way round.
    write_structures(structures, tmp_path / name, mask_format="dicom-seg" if name.endswith("dcm") else None, scan=grid)
    outcome = convert(tmp_path / name, "-o", tmp_path / "out.nii.gz", "--task", task, "--reference", grid.path)
    assert outcome.exit_code == 0, outcome.err
    found = read_label_map(tmp_path / "out.nii.gz")
    expected = np.array([0, 2, 1, 5])[structures.layers.array]
    np.testing.assert_array_equal(found.array, expected)


def test_names_are_mapped(convert: Convert, grid: Scan, task: Path, tmp_path: Path) -> None:
    labels = np.zeros(grid.volume.shape, dtype=np.uint8)
    labels[0, 1:3], labels[0, 3:5], labels[0, 5:7] = 1, 2, 3
    odd = from_label_map(grid.volume.with_array(labels), {"CTV=p": (1,), "Blase": (2,), "Table": (3,)})
    write_structures(odd, tmp_path / "rt.dcm", mask_format="rtstruct", scan=grid)
    given = (tmp_path / "rt.dcm", "-o", tmp_path / "m.nii.gz", "--reference", grid.path, "--task", task)
    outcome = convert(*given, "--map", "CTV=p=prostate")
    assert outcome.exit_code == 0
    assert "rectum" in outcome.err  # which the file lacks
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.nii.gz").array, labels * (labels < 3))
    again = (*given, "--overwrite")
    convert(*again, "--map", "CTV=p").check_refused("'CTV=p'", "prostate, bladder, rectum")
    convert(*again, "--map", "prostate").check_refused("NAME=label")
    convert(*again, "--map", "CTV=p=prostat").check_refused("did you mean 'prostate'?")
    convert(*again[:-3], "--overwrite", "--map", "a=b").check_refused("--map", "--task")


def test_a_map_for_values_is_refused(convert: Convert, grid: Scan, task: Path, tmp_path: Path) -> None:
    write_image(grid.volume.with_array(np.ones(grid.volume.shape, dtype=np.uint8)), tmp_path / "v.nii")
    refused = convert(tmp_path / "v.nii", "-o", tmp_path / "m.nii.gz", "--task", task, "--map", "x=prostate")
    refused.check_refused("v.nii", "--map")


def test_values_and_names_that_a_task_does_not_know(convert: Convert, grid: Scan, task: Path, tmp_path: Path) -> None:
    labels = grid.volume.with_array(np.full(grid.volume.shape, 7, dtype=np.uint8))
    write_image(labels, tmp_path / "v.nii")
    convert(tmp_path / "v.nii", "-o", tmp_path / "m.nii", "--task", task).check_refused("v.nii", "7", "0, 1, 2, 5")
    write_structures(from_label_map(labels, {"Table": (7,)}), tmp_path / "t.seg.nrrd")
    convert(tmp_path / "t.seg.nrrd", "-o", tmp_path / "m.nii", "--task", task).check_refused("'Table'", "--map")
    convert(tmp_path / "v.nii", "-o", tmp_path / "m.nii", "--task", "pelvis-tets").check_refused("pelvis-tets")
    assert not (tmp_path / "m.nii").exists()


def test_regions_are_named_by_a_task(convert: Convert, folder: Path, grid: Scan, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(REGIONS)
    labels = np.zeros(grid.volume.shape, dtype=np.uint8)
    labels[0, 1:6, 1:6, 1:6], labels[0, 2:5, 2:5, 2:5], labels[0, 3, 3, 3] = 1, 2, 3
    write_image(grid.volume.with_array(labels), tmp_path / "m.nii.gz")
    dicom = ("--task", tmp_path / "task.yaml", "--reference", folder, "--format", "rtstruct")
    assert convert(tmp_path / "m.nii.gz", "-o", tmp_path / "rt.dcm", *dicom).exit_code == 0
    back = (tmp_path / "rt.dcm", "-o", tmp_path / "back.nii.gz", "--reference", folder)
    convert(*back).check_refused("overlap", "--split")
    assert convert(*back, "--task", tmp_path / "task.yaml").exit_code == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "back.nii.gz").array, labels)


# ---- a folder that holds images and contours ---------------------------------------------------------------------------


def test_images_beside_contours(
    convert: Convert, series: Series, structures: StructureSet, folder: Path, grid: Scan, task: Path, tmp_path: Path
) -> None:
    write_structures(structures, folder / "rt.dcm", mask_format="rtstruct", scan=grid)
    outcome = convert(folder, "-o", tmp_path / "scan.nii.gz")
    assert outcome.exit_code == 0
    assert "RTSTRUCT" in outcome.out  # was left out
    check_exact(read_volume(tmp_path / "scan.nii.gz"), series.slices)
    convert(folder, "-o", tmp_path / "m.seg.nrrd").check_refused("rt.dcm", "--reference")
    for target, options in (("m.seg.nrrd", []), ("m.nii.gz", ["--split"]), ("t.nii.gz", ["--task", task])):
        outcome = convert(folder, "-o", tmp_path / target, "--reference", folder, *options)
        assert outcome.exit_code == 0, outcome.err
    assert_same(read_structures(tmp_path / "m.seg.nrrd"), structures)
    np.testing.assert_array_equal(read_label_map(tmp_path / "m_rectum.nii.gz").array, structures.layers.array == 3)
    expected = np.array([0, 2, 1, 5])[structures.layers.array]
    np.testing.assert_array_equal(read_label_map(tmp_path / "t.nii.gz").array, expected)


def test_images_alone_are_no_mask(convert: Convert, folder: Path, task: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    for options in (["--task", task], ["--split"]):
        refused = convert(folder, "-o", tmp_path / "m.nii.gz", *options)
        refused.check_refused(str(folder), "0 SEG or RTSTRUCT")
    convert(folder, "-o", tmp_path / "m.seg.nrrd").check_refused("0 SEG or RTSTRUCT")
    assert snapshot(tmp_path) == before


# ---- outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("out.nii.gz", ["--format", "rtstruct"], ["does not fit", ".dcm"]),
        ("out.nii.gz", ["--format", "nrrd"], ["does not fit", ".seg.nrrd"]),
        ("out.nrrd", ["--format", "nifti"], ["does not fit", ".nii.gz"]),
        ("out.nii.gz", ["--format", "nifty"], ["'nifty'", "dicom-seg"]),
        ("out.dcm", [], ["--format dicom-seg"]),
        ("out.txt", [], [".nii.gz", ".nrrd"]),
        ("out", [], [".nii.gz", ".nrrd"]),
        ("out.png", [], ["name for an image", ".nii.gz"]),  # only masks become pictures
        ("out.dcm", ["--format", "dicom-seg", "--seg-type", "fractional"], ["fractional", "binary or labelmap"]),
        ("out.nii.gz", ["--affine", "both"], ["both", "sform or qform"]),
    ],
)
def test_contradictions_are_refused(
    convert: Convert, folder: Path, tmp_path: Path, name: str, options: list[str], words: list[str]
) -> None:
    before = snapshot(tmp_path)
    convert(folder, "-o", tmp_path / name, *options).check_refused(*words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("exists", ["m.nii.gz", "m.json"])
def test_an_existing_file_is_kept(convert: Convert, structures: StructureSet, tmp_path: Path, exists: str) -> None:
    write_structures(structures, tmp_path / "in.seg.nrrd")
    (tmp_path / exists).write_bytes(b"precious")
    before = snapshot(tmp_path)
    convert(tmp_path / "in.seg.nrrd", "-o", tmp_path / "m.nii.gz").check_refused(exists, "--overwrite")
    assert snapshot(tmp_path) == before
    assert convert(tmp_path / "in.seg.nrrd", "-o", tmp_path / "m.nii.gz", "--overwrite").exit_code == 0
    assert_same(read_structures(tmp_path / "m.nii.gz"), structures)


def test_an_existing_image_is_kept(convert: Convert, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"precious")
    convert(folder, "-o", tmp_path / "scan.nii.gz").check_refused("scan.nii.gz", "--overwrite")
    assert (tmp_path / "scan.nii.gz").read_bytes() == b"precious"
    assert convert(folder, "-o", tmp_path / "scan.nii.gz", "--overwrite").exit_code == 0


@pytest.mark.parametrize("exists", ["m_bladder.nii.gz", "m_rectum.json"])
def test_no_part_is_written_where_another_exists(
    convert: Convert, structures: StructureSet, tmp_path: Path, exists: str
) -> None:
    write_structures(structures, tmp_path / "in.seg.nrrd")
    (tmp_path / exists).write_bytes(b"precious")
    before = snapshot(tmp_path)
    convert(tmp_path / "in.seg.nrrd", "-o", tmp_path / "m.nii.gz", "--split").check_refused(exists, "--overwrite")
    assert snapshot(tmp_path) == before


def test_the_input_is_never_the_output(
    convert: Convert, structures: StructureSet, folder: Path, grid: Scan, tmp_path: Path
) -> None:
    write_structures(structures, tmp_path / "m.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "m.nii.gz")
    write_structures(structures, folder / "rt.dcm", mask_format="rtstruct", scan=grid)
    a_slice = next(path for path in sorted(folder.iterdir()) if path.name.startswith("IM"))
    before = snapshot(tmp_path)
    for output in ("m.nii.gz", "link.nii.gz"):
        convert(tmp_path / "m.nii.gz", "-o", tmp_path / output, "--overwrite").check_refused("is the input")
    dicom = ("--format", "dicom-seg", "--reference", folder, "--overwrite")
    for source in (tmp_path / "m.nii.gz", folder):
        convert(source, "-o", a_slice, *dicom).check_refused(a_slice.name, "is the input")
    convert(folder, "-o", folder / "rt.dcm", *dicom).check_refused("rt.dcm", "is the input")
    convert(folder, "-o", folder).check_refused(str(folder))
    assert snapshot(tmp_path) == before
    # A mask beside the slices is nobody's input.
    assert convert(tmp_path / "m.nii.gz", "-o", folder / "seg.dcm", *dicom).exit_code == 0
    assert convert(tmp_path / "m.nii.gz", "-o", folder / "seg.dcm", *dicom).exit_code == 0


@pytest.mark.parametrize("name", ["scan.nii.gz", "m.seg.nrrd", "rt.dcm"])
def test_a_full_disk_leaves_nothing(
    convert: Convert,
    structures: StructureSet,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_structures(structures, tmp_path / "in.nii.gz")
    (tmp_path / name).write_bytes(b"old")
    before = snapshot(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    source = folder if name == "scan.nii.gz" else tmp_path / "in.nii.gz"
    options = ["--format", "rtstruct", "--reference", folder] if name == "rt.dcm" else []
    convert(source, "-o", tmp_path / name, "--overwrite", *options).check_refused(name, "disk is full")
    assert snapshot(tmp_path) == before


# ---- inputs ------------------------------------------------------------------------------------------------------------


def write_pipe(path: Path) -> None:
    os.mkfifo(path)


def write_text(path: Path) -> None:
    path.write_text("dear radiologist")


@pytest.mark.parametrize("write", [None, write_pipe, write_text, Path.mkdir])
@pytest.mark.parametrize("name", ["in.nii.gz", "in.seg.nrrd", "in.nrrd", "in.dcm", "in"])
@pytest.mark.parametrize("output", ["out.nii.gz", "out.seg.nrrd"])
def test_row_35_bad_inputs_are_one_line(
    convert: Convert, tmp_path: Path, write: Callable[[Path], None] | None, name: str, output: str
) -> None:
    if write is not None:
        write(tmp_path / name)
    before = sorted(path.name for path in tmp_path.iterdir())
    convert(tmp_path / name, "-o", tmp_path / output).check_refused(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("write", [None, write_pipe, write_text, Path.mkdir])
def test_a_bad_reference_is_one_line(
    convert: Convert, structures: StructureSet, tmp_path: Path, write: Callable[[Path], None] | None
) -> None:
    write_structures(structures, tmp_path / "m.nii.gz")
    if write is not None:
        write(tmp_path / "ref")
    dicom = ("--format", "rtstruct", "--reference", tmp_path / "ref")
    convert(tmp_path / "m.nii.gz", "-o", tmp_path / "rt.dcm", *dicom).check_refused("ref")
    assert not (tmp_path / "rt.dcm").exists()


def test_row_46_a_reference_of_another_scan_is_refused(
    convert: Convert, structures: StructureSet, tmp_path: Path
) -> None:
    write_structures(structures, tmp_path / "m.nii.gz")
    other = build_series(origin=(-31.0, 12.5, -139.0)).write(tmp_path / "other")
    for mask_format in ("dicom-seg", "rtstruct"):
        dicom = ("--format", mask_format, "--reference", other)
        refused = convert(tmp_path / "m.nii.gz", "-o", tmp_path / "o.dcm", *dicom)
        refused.check_refused("m.nii.gz", str(other), "mm apart")
    assert not (tmp_path / "o.dcm").exists()


def test_the_volume_index_belongs_to_the_reference(convert: Convert, tmp_path: Path) -> None:
    # A mask that was made of one b-value has one volume itself.
    twin = build_enhanced("MR", volumes=2).write(tmp_path / "twin")
    assert convert(twin, "-o", tmp_path / "b1.nii.gz", "--volume-index", 1).exit_code == 0
    scan = read_volume(tmp_path / "b1.nii.gz")
    write_image(scan.with_array((scan.array > 400).astype(np.uint8)), tmp_path / "m.nii.gz")
    dicom = ("-o", tmp_path / "seg.dcm", "--format", "dicom-seg", "--reference", twin)
    convert(tmp_path / "m.nii.gz", *dicom).check_refused("2 volumes", "--volume-index")
    assert convert(tmp_path / "m.nii.gz", *dicom, "--volume-index", 1).exit_code == 0
    back = convert(tmp_path / "seg.dcm", "-o", tmp_path / "back.nii.gz", "--reference", twin, "--volume-index", 1)
    assert back.exit_code == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "back.nii.gz").array, scan.array > 400)


def test_a_mask_of_several_volumes_is_refused(convert: Convert, grid: Scan, tmp_path: Path) -> None:
    four = np.zeros((2, *grid.volume.spatial_shape), dtype=np.uint8)
    write_image(grid.volume.with_array(four), tmp_path / "m.nii.gz")
    convert(tmp_path / "m.nii.gz", "-o", tmp_path / "m.seg.nrrd").check_refused("m.nii.gz", "2")


def test_an_empty_mask_is_a_valid_object(
    convert: Convert, grid: Scan, folder: Path, task: Path, tmp_path: Path
) -> None:
    write_image(grid.volume.with_array(np.zeros(grid.volume.shape, dtype=np.uint8)), tmp_path / "m.nii.gz")
    for mask_format in ("dicom-seg", "rtstruct"):
        path = tmp_path / f"{mask_format}.dcm"
        dicom = ("--format", mask_format, "--reference", folder, "--task", task)
        assert convert(tmp_path / "m.nii.gz", "-o", path, *dicom).exit_code == 0
        found = read_structures(path, read_reference(folder))
        assert [part.name for part in found.structures] == ["prostate", "bladder", "rectum"]
        assert not found.layers.array.any()
