"""``medunet infer`` on DICOM: masks of an oracle on the very voxels, in every format, and every refusal in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from oracles import ORACLE_HU, ORACLE_TASK, Outcome
from PIL import Image
from synthetic_series import (
    ORIENTATIONS,
    Series,
    Slice,
    assert_private,
    build_enhanced,
    build_series,
    check_exact,
    write_dicomdir,
    zip_folder,
)

from medunet.errors import OutputError
from medunet.inference import load
from medunet.io import Scan, read_label_map, read_reference, read_scan, read_structures, read_volume, write_image
from medunet.tasks import Task
from medunet.volume import to_orientation

Infer = Callable[..., Outcome]
STEEP = (150.0, -110.0, 220.0)
"""HU per mm: a few voxels pass from air to bone."""
VALUES = {"fat": 1, "muscle": 2, "gland": 3, "marrow": 4, "bone": 7}


@pytest.fixture
def infer(medunet_command: Callable[..., Outcome], oracle_folder: Path) -> Infer:
    """The command; nothing of the patient is ever printed."""

    def call(*arguments: object, model: Path = oracle_folder) -> Outcome:
        outcome = medunet_command("infer", *arguments, "--model", model, "--device", "cpu")
        assert_private(outcome.out + outcome.err)
        return outcome

    return call


def build(modality: str = "CT", **options: Any) -> Series:
    """Voxels of 1 mm, as the oracle sees them, so that every one has its own class."""
    given = {"spacing": (1.0, 1.0, 1.0), "gradient": STEEP, "offset": 100.0, "intercept": -8192.0}
    return build_series(modality, **{**given, **options})


@pytest.fixture(scope="module")
def series() -> Series:
    return build()


@pytest.fixture
def folder(series: Series, tmp_path: Path) -> Path:
    return series.write(tmp_path / "scan")


def classify(values: np.ndarray) -> np.ndarray:
    """What the oracle says of intensities."""
    classes = np.abs(np.asarray(values)[..., None] - ORACLE_HU).argmin(axis=-1)
    return np.array([0, *VALUES.values()])[classes]


def to_truth(slices: Sequence[Slice]) -> list[Slice]:
    """The slices with the labels in place of the intensities."""
    return [replace(one, values=classify(one.values)) for one in slices]


def check_mask(path: Path, series: Series, scan: Scan | None = None) -> None:
    """Every label at the place of its pixel, in any format."""
    truth = to_truth(series.slices)
    found = read_structures(path, scan)
    assert [part.name for part in found.structures] == list(VALUES)
    labels = np.zeros(found.layers.spatial_shape)
    for part in found.structures:
        assert not labels[found.get_mask(part)].any()
        labels[found.get_mask(part)] = VALUES[part.name]
    assert len(np.unique(labels)) == 6
    check_exact(found.layers.with_array(labels[None]), truth)


def list_files(folder: Path) -> set[str]:
    """Every file but manifests, of which test_infer_runs.py speaks."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".manifest.json")]
    return {str(path.relative_to(folder)) for path in files if path.parent.name != "manifests"}


# ---- one scan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask.nii.gz", []),
        ("mask.seg.nrrd", ["--format", "nrrd"]),
        ("mask.dcm", ["--format", "dicom-seg"]),
        ("mask.dcm", ["--format", "dicom-seg", "--seg-type", "labelmap"]),
        ("mask.dcm", ["--format", "rtstruct"]),
    ],
)
def test_every_voxel_is_labelled_where_it_lies(
    infer: Infer, series: Series, folder: Path, tmp_path: Path, name: str, options: list[str]
) -> None:
    outcome = infer(folder, "-o", tmp_path / name, *options)
    assert outcome.exit_code == 0, outcome.err
    assert all(line.startswith("warning: DICOM archives") for line in outcome.err.splitlines())
    for word in (*VALUES, "ml", str(tmp_path / name)):
        assert word in outcome.out
    check_mask(tmp_path / name, series, read_reference(folder))
    sidecar = {"mask.json"} if name.endswith(".nii.gz") else set()
    assert {name for name in list_files(tmp_path) if "/" not in name} == {name} | sidecar


def test_a_preview_is_drawn(infer: Infer, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "picture.png"
    outcome = infer(folder, "-o", tmp_path / "m.dcm", "--format", "rtstruct", "--preview", picture)
    assert outcome.exit_code == 0, outcome.err
    assert str(picture) in outcome.out
    with Image.open(picture) as drawn:
        assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("orientation", ["axial-feet-first", "sagittal", "coronal-head-down", "at-45-degrees"])
def test_all_directions(infer: Infer, tmp_path: Path, orientation: str) -> None:
    series = build(directions=ORIENTATIONS[orientation], numbering="interleaved")
    folder = series.write(tmp_path / "scan")
    assert infer(folder, "-o", tmp_path / "mask.nii.gz").exit_code == 0
    check_exact(read_volume(tmp_path / "mask.nii.gz"), to_truth(series.slices))
    assert infer(folder, "-o", tmp_path / "mask.dcm", "--format", "dicom-seg").exit_code == 0
    check_mask(tmp_path / "mask.dcm", series, read_reference(folder))


def test_a_zip_a_dicomdir_and_a_multi_frame_file(infer: Infer, series: Series, folder: Path, tmp_path: Path) -> None:
    media, enhanced = build(), build_enhanced("CT", spacing=(1.0, 1.0, 1.0), gradient=STEEP, intercept=-8192.0)
    write_dicomdir(media, tmp_path / "media")
    enhanced.write(tmp_path / "enhanced")
    for number, (source, truth) in enumerate(
        [
            (zip_folder(folder, tmp_path / "scan.zip"), series),
            (tmp_path / "media" / "DICOMDIR", media),
            (tmp_path / "enhanced" / "enhanced.dcm", enhanced),
        ]
    ):
        path = tmp_path / f"{number}.dcm"
        assert infer(source, "-o", path, "--format", "dicom-seg").exit_code == 0
        check_mask(path, truth, read_reference(source))


def test_row_10_pictures_beside_the_slices_change_nothing(
    infer: Infer, series: Series, folder: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((4, 5), dtype=np.uint8)).save(folder / "screenshot.png")
    (folder / "report.txt").write_text("x")
    outcome = infer(folder, "-o", tmp_path / "mask.nii.gz")
    assert outcome.exit_code == 0, outcome.err
    check_exact(read_volume(tmp_path / "mask.nii.gz"), to_truth(series.slices))
    assert "2 file(s) that are no DICOM files were ignored" in outcome.out


def test_a_tilted_scan_is_segmented_on_its_straightened_grid(infer: Infer, tmp_path: Path) -> None:
    series = build(tilt_degrees=14.0)
    folder = series.write(tmp_path / "scan")
    assert infer(folder, "-o", tmp_path / "mask.nii.gz").exit_code == 0
    scan = read_volume(folder)
    found = read_volume(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(found.array, classify(scan.array))
    assert infer(folder, "-o", tmp_path / "mask.dcm", "--format", "dicom-seg").exit_code == 0
    segmentation = pydicom.dcmread(tmp_path / "mask.dcm")
    scanned = {tuple(np.round(one.plane[:3, 3], 3)) for one in series.slices}
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        assert tuple(np.round(position, 3)) in scanned


@pytest.mark.parametrize(("name", "mask_format"), [("mask.dcm", "dicom-seg"), ("mask.nii.gz", "nifti")])
def test_split_gives_each_label_its_file(
    infer: Infer, folder: Path, tmp_path: Path, name: str, mask_format: str
) -> None:
    assert infer(folder, "-o", tmp_path / "out" / name, "--format", mask_format, "--split").exit_code == 0
    suffix = name.removeprefix("mask")
    expected = {f"mask_{label}{suffix}" for label in VALUES}
    assert {found for found in list_files(tmp_path / "out") if not found.endswith(".json")} == expected
    scan = read_scan(folder)
    for label, value in VALUES.items():
        found = read_structures(tmp_path / "out" / f"mask_{label}{suffix}", scan)
        assert [part.name for part in found.structures] == [label]
        np.testing.assert_array_equal(found.get_mask(found.structures[0]), classify(scan.volume.array[0]) == value)


# ---- choices -----------------------------------------------------------------------------------------------------------


def test_row_8_one_of_several_series(infer: Infer, series: Series, folder: Path, tmp_path: Path) -> None:
    other = build(number=12, description="late phase", offset=300.0)
    other.write(folder / "other")
    build("MR", number=13).write(folder / "mr")
    refused = infer(folder, "-o", tmp_path / "m.nii.gz")
    refused.check_refused("2 series", "--series", "'late phase'")
    assert "MR" not in refused.err
    for choice in ("12", "LATE", other.datasets[0].SeriesInstanceUID):
        assert infer(folder, "-o", tmp_path / "m.nii.gz", "--series", choice, "--overwrite").exit_code == 0
        check_exact(read_volume(tmp_path / "m.nii.gz"), to_truth(other.slices))
    dicom = ("--series", "late", "--format", "rtstruct")
    assert infer(folder, "-o", tmp_path / "m.dcm", *dicom).exit_code == 0
    referenced = pydicom.dcmread(tmp_path / "m.dcm").ReferencedFrameOfReferenceSequence[0]
    (named,) = referenced.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert named.SeriesInstanceUID == other.datasets[0].SeriesInstanceUID
    infer(folder, "-o", tmp_path / "x.nii.gz", "--series", "99").check_refused("'99'")
    assert not (tmp_path / "x.nii.gz").exists()


def test_a_series_of_the_tasks_modality_is_taken(infer: Infer, series: Series, folder: Path, tmp_path: Path) -> None:
    build("MR", number=13).write(folder / "mr")
    assert infer(folder, "-o", tmp_path / "m.nii.gz").exit_code == 0
    check_exact(read_volume(tmp_path / "m.nii.gz"), to_truth(series.slices))


def test_another_modality_is_refused(infer: Infer, tmp_path: Path) -> None:
    folder = build("MR").write(tmp_path / "mr")
    infer(folder, "-o", tmp_path / "m.nii.gz").check_refused(str(folder), "no series of modality CT", "MR")
    assert not (tmp_path / "m.nii.gz").exists()


def test_row_6_one_of_several_volumes(infer: Infer, tmp_path: Path, write_model: Callable[..., Path]) -> None:
    twin = build_enhanced("MR", volumes=2, spacing=(1.0, 1.0, 1.0), gradient=(6.0, -4.0, 9.0), offset=250.0)
    folder = twin.write(tmp_path / "twin")
    task = Task.model_validate(ORACLE_TASK.model_dump() | {"modality": "MR"})
    from oracles import NearestIntensity

    model = write_model(tmp_path / "model", task, weights=NearestIntensity(list(ORACLE_HU)).state_dict())
    infer(folder, "-o", tmp_path / "m.nii.gz", model=model).check_refused("2 volumes", "--volume-index")
    given = (folder, "-o", tmp_path / "m.nii.gz", "--volume-index")
    infer(*given, 2, model=model).check_refused("--volume-index 2", "2 volumes")
    assert infer(*given, 1, model=model).exit_code == 0
    check_exact(read_volume(tmp_path / "m.nii.gz"), to_truth(twin.slices[8:]))


def test_row_34_a_volume_of_a_4d_file(infer: Infer, tmp_path: Path) -> None:
    array = np.zeros((9, 8, 7, 3), dtype=np.int16)
    array[..., 1], array[2:5, 2:5, 2:5, 2] = 300, 900
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "four.nii.gz")
    given = (tmp_path / "four.nii.gz", "-o", tmp_path / "m.nii.gz")
    infer(*given).check_refused("four.nii.gz", "3 ", "1 (ct)", "--volume-index 0 to 2")
    infer(*given, "--volume-index", 3).check_refused("four.nii.gz", "0 to 2")
    assert not (tmp_path / "m.nii.gz").exists()
    assert infer(*given, "--volume-index", 2).exit_code == 0
    found = read_label_map(tmp_path / "m.nii.gz").array[0]
    np.testing.assert_array_equal(found, np.where(array[..., 2] == 900, 7, 2))


def test_row_1_gaps_are_filled_on_request_only(infer: Infer, tmp_path: Path) -> None:
    series = build().drop(3)
    folder = series.write(tmp_path / "gap")
    infer(folder, "-o", tmp_path / "m.nii.gz").check_refused(*series.names[2:4], "2.00 mm", "--allow-gaps")
    outcome = infer(folder, "-o", tmp_path / "m.dcm", "--format", "dicom-seg", "--allow-gaps")
    assert outcome.exit_code == 0
    assert "uneven distances" in outcome.err
    assert len(pydicom.dcmread(tmp_path / "m.dcm").PerFrameFunctionalGroupsSequence) == 7 * len(VALUES)


# ---- scans in other formats, with a reference --------------------------------------------------------------------------


@pytest.mark.parametrize("mask_format", ["dicom-seg", "rtstruct"])
def test_a_nifti_scan_becomes_dicom_with_a_reference(
    infer: Infer, series: Series, folder: Path, tmp_path: Path, mask_format: str
) -> None:
    write_image(to_orientation(read_volume(folder), "SPL"), tmp_path / "scan.nii.gz")
    dicom = ("--format", mask_format, "--reference", folder)
    outcome = infer(tmp_path / "scan.nii.gz", "-o", tmp_path / "mask.dcm", *dicom)
    assert outcome.exit_code == 0, outcome.err
    check_mask(tmp_path / "mask.dcm", series, read_reference(folder))
    assert pydicom.dcmread(tmp_path / "mask.dcm").PatientID == "4711-SECRET"


def test_a_missing_or_wrong_reference_is_noticed(
    infer: Infer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(read_volume(folder), tmp_path / "scan.nii.gz")
    other = build(origin=(-31.0, 12.5, -139.0)).write(tmp_path / "other")
    given = (tmp_path / "scan.nii.gz", "-o", tmp_path / "mask.dcm", "--format", "dicom-seg")
    infer(*given, "--reference", other).check_refused("mask.dcm", str(other), "mm apart")
    # These cost no network: they are noticed before the model is loaded.
    for refused, words in (
        (infer(*given), ["scan.nii.gz", "--reference"]),
        (infer(*given, "--reference", tmp_path / "nowhere"), ["nowhere", "does not exist"]),
    ):
        refused.check_refused(*words)
        assert refused.out == ""
    assert not (tmp_path / "mask.dcm").exists()


def test_a_picture_becomes_a_picture(infer: Infer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 21)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    outcome = infer(tmp_path / "slide.png", "-o", tmp_path / "mask.png", "--preview", tmp_path / "p.png")
    assert outcome.exit_code == 0, outcome.err
    with Image.open(tmp_path / "mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), classify(pixels))
    preview = ("--preview", tmp_path / "same.png")
    infer(tmp_path / "slide.png", "-o", tmp_path / "same.png", *preview).check_refused("same.png", "both")


# ---- several scans -----------------------------------------------------------------------------------------------------


def test_several_folders_become_a_folder(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = {name: build(offset=offset) for name, offset in (("p 1", 0.0), ("p.2", 150.0), ("p3", 300.0))}
    for name, one in scans.items():
        one.write(tmp_path / "in" / name)
    zip_folder(tmp_path / "in" / "p3", tmp_path / "in" / "p4.zip")
    monkeypatch.chdir(tmp_path / "in" / "p 1")
    sources = (".", f"{tmp_path}/in/p.2/", tmp_path / "in" / "p3", tmp_path / "in" / "p4.zip")
    outcome = infer(*sources, "-o", tmp_path / "out", "--preview", tmp_path / "pictures")
    assert outcome.exit_code == 0, outcome.err
    names = {"p 1", "p.2", "p3", "p4"}
    assert list_files(tmp_path / "out") == {f"{name}.{suffix}" for name in names for suffix in ("nii.gz", "json")}
    assert list_files(tmp_path / "pictures") == {f"{name}.png" for name in names}
    for name, one in (*scans.items(), ("p4", scans["p3"])):
        check_exact(read_volume(tmp_path / "out" / f"{name}.nii.gz"), to_truth(one.slices))


@pytest.mark.parametrize(("mask_format", "suffix"), [("rtstruct", ".dcm"), ("nrrd", ".seg.nrrd")])
def test_rows_18_67_one_bad_folder_of_three(infer: Infer, tmp_path: Path, mask_format: str, suffix: str) -> None:
    scans = {name: build(offset=offset) for name, offset in (("a", 0.0), ("b", 150.0), ("c", 300.0))}
    folders = [one.write(tmp_path / name) for name, one in scans.items()]
    cut = sorted((tmp_path / "b").iterdir())[3]
    cut.write_bytes(cut.read_bytes()[:-30])
    outcome = infer(*folders, "-o", tmp_path / "out", "--format", mask_format)
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 2
    assert str(cut) in outcome.errors[0]
    assert "cut short" in outcome.errors[0]
    assert "1 of 3 scans failed" in outcome.errors[1]
    assert list_files(tmp_path / "out") == {f"a{suffix}", f"c{suffix}"}
    for name in "ac":
        check_mask(tmp_path / "out" / f"{name}{suffix}", scans[name], read_reference(tmp_path / name))


def test_folders_of_one_name_are_refused(infer: Infer, tmp_path: Path) -> None:
    folders = [build().write(tmp_path / patient / "CT") for patient in ("p1", "p2")]
    infer(*folders, "-o", tmp_path / "out").check_refused("'CT'", *map(str, folders))
    assert not (tmp_path / "out").exists()


def test_folders_as_channels(infer: Infer, tmp_path: Path, write_model: Callable[..., Path]) -> None:
    from oracles import NearestIntensity

    task = Task.model_validate(ORACLE_TASK.model_dump() | {"channels": ("early", "late")})
    weights = NearestIntensity(list(ORACLE_HU)).state_dict()
    model = write_model(tmp_path / "model", task, weights=weights)
    first = build()
    folders = [
        first.write(tmp_path / "first"),
        build(like=first, number=9, offset=-200.0).write(tmp_path / "second"),
    ]
    outcome = infer(*folders, "-o", tmp_path / "m.dcm", "--format", "dicom-seg", model=model)
    assert outcome.exit_code == 0, outcome.err
    check_mask(tmp_path / "m.dcm", first, read_reference(folders[0]))  # the oracle looks at the first channel
    stranger = build(offset=-200.0).write(tmp_path / "stranger")
    refused = infer(folders[0], stranger, "-o", tmp_path / "x.nii.gz", model=model)
    refused.check_refused("frames of reference", str(stranger))
    one = infer(folders[0], "-o", tmp_path / "x.nii.gz", model=model)
    one.check_refused("expects 2 (early, late)")


# ---- outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("m.nii.gz", ["--format", "rtstruct"], ["does not fit", ".dcm"]),
        ("m.dcm", ["--format", "nifti"], ["does not fit", ".nii.gz"]),
        ("m.dcm", [], ["--format dicom-seg", "--format rtstruct"]),
        ("m.nii.gz", ["--format", "dicom"], ["'dicom'", "dicom-seg"]),
        ("m.dcm", ["--format", "dicom-seg", "--seg-type", "x"], ["x", "binary or labelmap"]),
        ("m.hdr", [], ["m.hdr", ".nii.gz"]),
        ("m", [], ["m", ".nii.gz"]),
        ("m.nii.gz", ["--affine", "x"], ["x", "sform or qform"]),
    ],
)
def test_contradictions_are_refused_before_any_work(
    infer: Infer, folder: Path, tmp_path: Path, name: str, options: list[str], words: list[str]
) -> None:
    before = list_files(tmp_path)
    outcome = infer(folder, "-o", tmp_path / name, *options)
    outcome.check_refused(*words)
    assert outcome.out == ""
    assert list_files(tmp_path) == before


def test_slices_are_never_replaced(infer: Infer, folder: Path, tmp_path: Path) -> None:
    a_slice = sorted(folder.iterdir())[0]
    (tmp_path / "link.dcm").symlink_to(a_slice)
    write_image(read_volume(folder), tmp_path / "scan.nii.gz")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    dicom = ("--format", "dicom-seg", "--overwrite")
    for output in (a_slice, tmp_path / "link.dcm"):
        infer(folder, "-o", output, *dicom).check_refused(output.name, "is the input")
        infer(tmp_path / "scan.nii.gz", "-o", output, *dicom, "--reference", folder).check_refused("is the input")
    infer(folder, "-o", tmp_path / "m.nii.gz", "--preview", a_slice, "--overwrite").check_refused("is the input")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for _ in range(2):  # a mask beside the slices may be made again
        assert infer(folder, "-o", folder / "seg.dcm", *dicom).exit_code == 0


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.seg.nrrd"])
def test_no_volume_is_written_among_slices(
    infer: Infer, folder: Path, tmp_path: Path, oracle_folder: Path, name: str
) -> None:
    """From then on the folder would be one of volumes, and the scan in it be lost to every command."""
    before = list_files(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        infer(folder, "-o", place / name).check_refused("among the slices", "Choose another folder")
    segmentation = load(oracle_folder, device="cpu").segment(folder)
    with pytest.raises(OutputError, match="among the slices"):
        segmentation.save(folder / name)
    assert list_files(tmp_path) - {"link"} == before
    assert infer(folder, "-o", folder / "within" / name).exit_code == 0
    assert infer(folder, "-o", tmp_path / name).exit_code == 0  # and it is still one scan


@pytest.mark.parametrize("exists", ["m.nii.gz", "m.json", "p.png"])
def test_existing_files_are_kept(infer: Infer, folder: Path, tmp_path: Path, exists: str) -> None:
    (tmp_path / exists).write_bytes(b"precious")
    before = list_files(tmp_path)
    given = (folder, "-o", tmp_path / "m.nii.gz", "--preview", tmp_path / "p.png")
    infer(*given).check_refused(exists, "--overwrite")
    assert (tmp_path / exists).read_bytes() == b"precious"
    assert list_files(tmp_path) == before
    assert infer(*given, "--overwrite").exit_code == 0
    assert (tmp_path / exists).read_bytes() != b"precious"


def test_a_full_disk_leaves_nothing(
    infer: Infer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    before = list_files(tmp_path)
    for mask_format in ("dicom-seg", "rtstruct"):
        infer(folder, "-o", tmp_path / "m.dcm", "--format", mask_format).check_refused("m.dcm", "disk is full")
    assert list_files(tmp_path) == before


def test_row_48_nothing_found_is_a_valid_object(infer: Infer, tmp_path: Path) -> None:
    folder = build(gradient=(0.1, 0.1, 0.1), offset=-1000.0).write(tmp_path / "air")
    for mask_format in ("dicom-seg", "rtstruct"):
        outcome = infer(folder, "-o", tmp_path / f"{mask_format}.dcm", "--format", mask_format)
        assert outcome.exit_code == 0, outcome.err
        assert re.search(r"no structure found$", outcome.out, re.MULTILINE)
        found = read_structures(tmp_path / f"{mask_format}.dcm", read_reference(folder))
        assert [part.name for part in found.structures] == list(VALUES)
        assert not found.layers.array.any()
