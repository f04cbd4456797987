"""DICOM SEG: written on scans in any direction and read back by three readers, and read with every fault it may have."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from synthetic_series import (
    CANARIES,
    LPS_TO_RAS,
    OBLIQUE,
    ORIENTATIONS,
    Series,
    assert_private,
    build_enhanced,
    build_series,
    new_uid,
    rotation,
    to_ds,
)

from medunet.errors import GeometryError, LabelError, MedunetError, OutputError, VolumeError
from medunet.io.dicom import seg_write
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.read import read_stack
from medunet.io.dicom.seg_file import SegmentInfo, list_segments
from medunet.io.dicom.seg_read import read_seg
from medunet.io.dicom.seg_write import encode_seg, write_seg
from medunet.io.dicom.stack import DicomStack
from medunet.io.scan import ReadOptions
from medunet.io.structures import Code, StructureSet, from_label_map, from_masks
from medunet.volume import Volume

ALGORITHM = {"algorithm_name": "pelvis-ct", "algorithm_version": "1.2"}
LIVER = Code(value="10200004", meaning="Liver")
TUMOUR = Code(value="108369006", meaning="Neoplasm")
ALTERED = Code(value="49755003", meaning="Morphologically Altered Structure")
COMPRESSIBLE = (33, 37, 5)
"""Rows, columns, slices: the encoder of JPEG 2000 wants 32 pixels each way."""
Masks = dict[str, np.ndarray]


@pytest.fixture
def read_scan_of(tmp_path: Path) -> Iterator[Callable[..., DicomStack]]:
    """The stack of a synthetic series, through files and the reader of scans."""

    def read(series: Series, **options: Any) -> DicomStack:
        return read_stack(series.write(tmp_path / new_uid()), ReadOptions(**options))

    return read


def make_masks(shape: tuple[int, int, int], seed: int = 0) -> Masks:
    """What masks may be: overlapping, with holes, at borders, of one voxel, scattered, full, empty."""
    masks = {
        name: np.zeros(shape, dtype=bool) for name in ("ring", "overlap", "corner", "voxel", "dust", "full", "empty")
    }
    i, j, k = (n // 2 for n in shape)
    masks["ring"][1:-1, 1:-2, 1:-1] = True
    masks["ring"][i, j, k] = False
    masks["overlap"][: i + 1, j:, : k + 1] = True
    masks["corner"][0, -1, -1] = masks["corner"][-1, 0, 0] = True
    masks["voxel"][i, 1, k] = True
    masks["dust"][:] = np.random.default_rng(seed).random(shape) < 0.2
    masks["full"][:] = True
    return masks


def make_structures(masks: Masks, stack: DicomStack, **options: Any) -> StructureSet:
    grid = Volume(np.zeros((1, *stack.shape), dtype=np.uint8), stack.affine)
    return from_masks(masks.items(), grid, **options)


def assert_same_masks(found: StructureSet, masks: Masks) -> None:
    assert [structure.name for structure in found.structures] == list(masks)
    for structure in found.structures:
        wrong = np.count_nonzero(found.get_mask(structure) != masks[structure.name])
        assert wrong == 0, f"{wrong} voxels of {structure.name}"


def read_with_highdicom(content: bytes) -> tuple[Masks, np.ndarray]:
    """The masks and the RAS affine as highdicom reads them, axes (slice, row, column)."""
    seg = hd.seg.segread(io.BytesIO(content))
    volume = seg.get_volume(combine_segments=False, allow_missing_positions=True)
    names = [seg.get_segment_description(number).segment_label for number in seg.segment_numbers]
    masks = {name: volume.array[..., index].astype(bool) for index, name in enumerate(names)}
    return masks, LPS_TO_RAS @ volume.affine


def match_grids(masks: Masks, affine: np.ndarray, target: Volume) -> Masks:
    """Masks of another reader in the axis order and direction of ``target``; the grids must be the same points."""
    change = np.linalg.solve(affine, target.affine)  # target voxel -> other voxel
    steps, origin = np.rint(change[:3, :3]), np.rint(change[:3, 3])
    last = np.array(target.spatial_shape) - 1
    misplaced = affine[:3, :3] @ (change[:3] - np.column_stack([steps, origin])) @ [*last, 1]
    assert np.linalg.norm(misplaced) < 0.01
    axes = np.abs(steps).argmax(axis=0)  # of the other grid, for each axis of the target
    flips = steps[axes, range(3)]
    np.testing.assert_array_equal(np.sort(axes), range(3))
    np.testing.assert_array_equal(origin[axes], np.where(flips < 0, last, 0))
    turned = {
        name: mask.transpose(axes)[tuple(slice(None, None, int(f)) for f in flips)] for name, mask in masks.items()
    }
    assert {mask.shape for mask in turned.values()} == {target.spatial_shape}
    return turned


# ---- round trips


@pytest.mark.parametrize(
    ("orientation", "build"),
    [*((name, build_series) for name in ORIENTATIONS), ("double-oblique", build_enhanced), ("coronal", build_enhanced)],
)
def test_row_45_round_trip_keeps_every_voxel_and_the_affine(
    orientation: str, build: Callable[..., Series], read_scan_of: Any
) -> None:
    """The names of the files are shuffled, and so are the frames of the enhanced file."""
    options = {"order": (3, 0, 5, 1, 7, 2, 6, 4)} if build is build_enhanced else {"numbering": "shuffled"}
    series = build(directions=ORIENTATIONS[orientation], **options)
    stack = read_scan_of(series)
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    found = read_seg(content, stack)
    assert_same_masks(found, masks)
    np.testing.assert_array_equal(found.layers.affine, stack.affine)
    alone = read_seg(content)
    assert_same_masks(alone, masks)
    np.testing.assert_allclose(alone.layers.affine, series.affine, atol=1e-4)
    theirs = match_grids(*read_with_highdicom(content), alone.layers)
    for name, mask in masks.items():
        np.testing.assert_array_equal(theirs[name], mask, err_msg=name)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_row_45_round_trip_of_any_masks(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3), label="rows, columns, slices")
    spacing = data.draw(st.tuples(*[st.floats(0.05, 7)] * 3), label="spacing")
    directions = ORIENTATIONS[data.draw(st.sampled_from(sorted(ORIENTATIONS)), label="orientation")]
    with tempfile.TemporaryDirectory() as folder:
        series = build_series(shape=shape, spacing=spacing, directions=directions)
        stack = read_stack(series.write(Path(folder)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), label="seed"))
    densities = data.draw(st.lists(st.sampled_from([0.0, 0.05, 0.5, 1.0]), min_size=1, max_size=5), label="densities")
    masks = {f"structure {n}": rng.random(stack.shape) < density for n, density in enumerate(densities)}
    structures = make_structures(masks, stack)

    assert_same_masks(read_seg(encode_seg(structures, stack, **ALGORITHM), stack), masks)

    labels = from_label_map(
        structures.layers.with_array(structures.layers.array[:1]), {"a": [1], "b": [2, 3], "c": [9]}
    )
    expected = {structure.name: labels.get_mask(structure) for structure in labels.structures}
    content = encode_seg(labels, stack, kind="labelmap", **ALGORITHM)
    assert_same_masks(read_seg(content, stack), expected)
    assert_same_masks(read_seg(content), expected)


def test_regions_share_the_voxels_of_their_parts(read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())
    labels = np.random.default_rng(0).integers(0, 5, (1, *stack.shape)).astype(np.int32)
    structures = from_label_map(Volume(labels, stack.affine), {"organ": [1, 2, 4], "tumour": [2], "cyst": [4]})

    content = encode_seg(structures, stack, **ALGORITHM)

    expected = {"organ": np.isin(labels[0], [1, 2, 4]), "tumour": labels[0] == 2, "cyst": labels[0] == 4}
    assert_same_masks(read_seg(content, stack), expected)
    assert pydicom.dcmread(io.BytesIO(content)).SegmentsOverlap == "YES"


@pytest.mark.parametrize("tilt_along", ["columns", "rows"])
def test_tilted_slices_carry_their_own_masks(tilt_along: str, read_scan_of: Any) -> None:
    series = build_series(tilt_degrees=14.0, tilt_along=tilt_along)
    stack = read_scan_of(series)
    assert stack.regrid is not None
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    check_frames(content, stack, masks, series)
    with pytest.raises(GeometryError, match=r"tilted by 14\.0 degrees"):
        read_seg(content)


def test_uneven_slices_carry_their_own_masks(read_scan_of: Any) -> None:
    series = build_series(positions=(0.0, 2.0, 4.0, 9.0, 11.0, 13.5, 15.5, 17.5))
    stack = read_scan_of(series, allow_gaps=True)
    assert stack.regrid is not None
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    check_frames(content, stack, masks, series)


def check_frames(content: bytes, stack: DicomStack, masks: Masks, series: Series) -> None:
    """Every frame lies on a slice of the scan, names its image, and shows the mask there."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    frames = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    rows, columns = dataset.Rows, dataset.Columns
    frames = frames[: dataset.NumberOfFrames * rows * columns].reshape(-1, rows, columns)
    on_frames = {name: stack.labels_to_frames(mask) for name, mask in masks.items()}
    images = {image.SOPInstanceUID: image for image in series.datasets}
    seen = set()
    for group, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, frames, strict=True):
        name = list(masks)[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        image = images[source.ReferencedSOPInstanceUID]
        np.testing.assert_allclose(position, np.array(image.ImagePositionPatient, dtype=float), atol=1e-6)
        assert source.ReferencedSOPClassUID == image.SOPClassUID
        index = [frame.header.SOPInstanceUID for frame in stack.frames].index(image.SOPInstanceUID)
        np.testing.assert_array_equal(pixels, on_frames[name][index], err_msg=f"{name} on slice {index}")
        seen.add((name, index))
    assert len(seen) == len(masks) * len(stack.frames)
    found = read_seg(content, stack)
    expected = {name: stack.labels_from_frames(labels) for name, labels in on_frames.items()}
    assert_same_masks(found, expected)
    np.testing.assert_array_equal(found.layers.affine, stack.affine)


def test_frames_of_an_enhanced_scan_are_named_by_their_numbers(read_scan_of: Any) -> None:
    """The file holds two volumes at the same places; only the frames of the chosen one are referred to."""
    series = build_enhanced("MR", volumes=2, order=(2, 0, 1, 3, 4, 6, 5, 7), volume_key="temporal")
    stack = read_scan_of(series, volume_index=1)
    masks = {"dust": make_masks(stack.shape)["dust"]}

    dataset = pydicom.dcmread(io.BytesIO(encode_seg(make_structures(masks, stack), stack, **ALGORITHM)))

    image = series.datasets[0]
    numbers = []
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
        assert source.ReferencedSOPClassUID == image.SOPClassUID
        theirs = image.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
        assert theirs.FrameContentSequence[0].TemporalPositionIndex == 2
        assert (
            group.PlanePositionSequence[0].ImagePositionPatient == theirs.PlanePositionSequence[0].ImagePositionPatient
        )
        numbers.append(source.ReferencedFrameNumber)
    assert sorted(numbers) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert [item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence] == [image.SOPInstanceUID]
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID


def test_jittering_slices_keep_their_positions(read_scan_of: Any) -> None:
    series = build_series(positions=(0.0, 2.53, 4.98, 7.5, 10.03, 12.47, 15.0, 17.52))
    stack = read_scan_of(series)
    assert stack.regrid is None
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    check_frames(content, stack, masks, series)
    alone = read_seg(content)
    assert_same_masks(alone, masks)
    np.testing.assert_allclose(alone.layers.affine, stack.affine, atol=0.05)


@pytest.mark.parametrize("tilt_degrees", [0.0, 14.0])
def test_slices_whose_directions_differ_by_a_rounding(tilt_degrees: float, read_scan_of: Any) -> None:
    """At 400 mm from the first pixel the rounding is several times the tolerance of grids."""
    series = build_series(spacing=(45.0, 55.0, 5.0), gradient=(0.1, 0.2, 0.3), tilt_degrees=tilt_degrees)
    for k, dataset in enumerate(series.datasets):
        turned = OBLIQUE @ rotation(0, 0, 0.003 * (k % 3))
        dataset.ImageOrientationPatient = to_ds([*turned[:, 0], *turned[:, 1]])
    stack = read_scan_of(series)
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    check_frames(content, stack, masks, series)


# ---- independent reader


def run_dcmqi(content: bytes, folder: Path) -> tuple[Masks, np.ndarray, str]:
    """The masks by number of the segment and the RAS affine as dcmqi reads them, and what it complains about."""
    if importlib.util.find_spec("dcmqi") is None:
        pytest.skip("dcmqi is not installed (pip install dcmqi)")
    (folder / "seg.dcm").write_bytes(content)
    (folder / "out").mkdir()
    code = "from dcmqi import segimage2itkimage; segimage2itkimage()"
    options = ["--inputDICOM", folder / "seg.dcm", "--outputDirectory", folder / "out", "--outputType", "nii"]
    command = [sys.executable, "-c", code, *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    images = {path.name.split(".")[0]: nibabel.load(path) for path in (folder / "out").glob("*.nii.gz")}
    masks = {name: np.asarray(image.dataobj) > 0 for name, image in images.items()}
    return masks, next(iter(images.values())).affine, result.stdout + result.stderr


@pytest.mark.parametrize("orientation", ["double-oblique", "sagittal-mirrored"])
def test_an_independent_reader_finds_the_same_voxels(orientation: str, tmp_path: Path, read_scan_of: Any) -> None:
    stack = read_scan_of(build_series("MR", shape=(9, 14, 6), directions=ORIENTATIONS[orientation]))
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    found, affine, complaints = run_dcmqi(content, tmp_path)
    matched = match_grids(found, affine, Volume(np.zeros((1, *stack.shape)), stack.affine))
    assert sorted(matched) == [str(number + 1) for number in range(len(masks))]
    for number, (name, mask) in enumerate(masks.items(), start=1):
        np.testing.assert_array_equal(matched[str(number)], mask, err_msg=name)
    assert not re.search(r"\b[WE]:|absent|missing|invalid", complaints), complaints


def test_an_independent_reader_shows_names_codes_and_colours(tmp_path: Path, read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())
    masks = {name: make_masks(stack.shape)[name] for name in ("ring", "voxel")}
    structures = make_structures(masks, stack, codes={"ring": LIVER}, colors={"ring": (210, 40, 7)})

    run_dcmqi(encode_seg(structures, stack, **ALGORITHM), tmp_path)

    meta = (tmp_path / "out" / "meta.json").read_text()
    for expected in ('"SegmentLabel" : "ring"', '"CodeMeaning" : "Liver"', '"CodeValue" : "10200004"', "pelvis-ct"):
        assert expected in meta
    colors = [
        [int(part) for part in re.findall(r"\d+", text)] for text in re.findall(r"RGBValue\" : \[(.*?)\]", meta, re.S)
    ]
    np.testing.assert_allclose(colors[0], (210, 40, 7), atol=2)


# ---- what the object says


def test_segments_say_what_they_are(read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())
    masks = {name: make_masks(stack.shape)[name] for name in ("ring", "voxel", "empty")}
    colors = {"ring": (255, 0, 128), "voxel": (1, 2, 3), "empty": (86, 180, 233)}
    structures = make_structures(masks, stack, codes={"ring": LIVER, "voxel": TUMOUR}, colors=colors)

    content = encode_seg(structures, stack, **ALGORITHM, series_description="Organs", categories={"voxel": ALTERED})

    assert [(s.name, s.color, s.code) for s in read_seg(content, stack).structures] == [
        ("ring", (255, 0, 128), LIVER), ("voxel", (1, 2, 3), TUMOUR), ("empty", (86, 180, 233), None),
    ]  # fmt: skip
    anatomical = Code(value="91723000", meaning="Anatomical structure")
    assert list_segments(content) == (
        SegmentInfo(number=1, name="ring", color=(255, 0, 128), code=LIVER, category=anatomical),
        SegmentInfo(number=2, name="voxel", color=(1, 2, 3), code=TUMOUR, category=ALTERED),
        SegmentInfo(number=3, name="empty", color=(86, 180, 233)),
    )
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert dataset.Modality == "SEG"
    assert dataset.SegmentationType == "BINARY"
    assert dataset.SeriesDescription == "Organs"
    for item in dataset.SegmentSequence:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentAlgorithmName == "pelvis-ct"
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2"
    assert len({item.TrackingUID for item in dataset.SegmentSequence}) == 3
    tissue = dataset.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0]
    assert (tissue.CodeValue, tissue.CodingSchemeDesignator) == ("85756007", "SCT")


def test_the_object_belongs_to_patient_study_and_frame_of_reference_of_the_scan(read_scan_of: Any) -> None:
    series = build_series()
    stack = read_scan_of(series)

    content = encode_seg(make_structures(make_masks(stack.shape), stack), stack, **ALGORITHM)

    dataset, image = pydicom.dcmread(io.BytesIO(content)), series.datasets[0]
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
        "StudyID", "AccessionNumber", "FrameOfReferenceUID",
    ):  # fmt: skip
        assert dataset[keyword].value == image[keyword].value, keyword
    assert dataset.SeriesInstanceUID != image.SeriesInstanceUID
    sources = {item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence}
    assert sources == {source.SOPInstanceUID for source in series.datasets}


@pytest.mark.parametrize(
    ("character_set", "patient", "structure", "expected"),
    [
        ("ISO_IR 100", "Müller^Jörg", "liver", "ISO_IR 100"),
        ("ISO_IR 100", "Müller^Jörg", "Prostatahöhle", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "肝臓", "ISO_IR 192"),
        ("ISO_IR 192", "Müller^Jörg", "liver", "ISO_IR 192"),
        (None, "Mueller^Joerg", "Prostatahöhle", "ISO_IR 192"),
        (None, "Mueller^Joerg", "liver", None),
    ],
)
def test_letters_of_all_languages_survive(
    character_set: Any, patient: str, structure: str, expected: str | None, read_scan_of: Any
) -> None:
    series = build_series()
    for dataset in series.datasets:
        dataset.SpecificCharacterSet = character_set
        dataset.PatientName = patient
    stack = read_scan_of(series)
    masks = {structure: make_masks(stack.shape)["dust"]}

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    dataset = pydicom.dcmread(io.BytesIO(content))
    assert dataset.get("SpecificCharacterSet") == expected
    assert str(dataset.PatientName) == patient
    assert_same_masks(read_seg(content, stack), masks)


# ---- rows of the list of bad inputs


@pytest.mark.parametrize("change", ["moved", "turned", "one slice more", "transposed", "other spacing"])
def test_row_46_structures_on_another_grid_are_refused(change: str, read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())
    shape, affine = list(stack.shape), stack.affine.copy()
    if change == "moved":
        affine[0, 3] += 0.02
    elif change == "turned":
        affine[:3, 0] *= -1
    elif change == "one slice more":
        shape[2] += 1
    elif change == "transposed":
        shape[0], shape[1] = shape[1], shape[0]
    else:
        affine[:3, 2] *= 1.01
    structures = from_label_map(Volume(np.ones((1, *shape), dtype=np.uint8), affine), {"organ": [1]})

    with pytest.raises(GeometryError, match=r"different grids.*against shape 9x7x8"):
        encode_seg(structures, stack, **ALGORITHM)


def test_row_46_segmentation_in_another_frame_of_reference_is_refused(read_scan_of: Any) -> None:
    stack, other = read_scan_of(build_series()), read_scan_of(build_series())
    content = encode_seg(make_structures(make_masks(stack.shape), stack), stack, **ALGORITHM)

    with pytest.raises(GeometryError, match="different frames of reference"):
        read_seg(content, other)


@pytest.mark.parametrize("shift_mm", [0.02, 2.5])
def test_row_46_segmentation_off_the_grid_is_refused_with_both_grids(shift_mm: float, read_scan_of: Any) -> None:
    series = build_series()
    moved = build_series(like=series, origin=tuple(np.array((-31.0, 12.5, -140.25)) + shift_mm * OBLIQUE[:, 0]))
    stack, other = read_scan_of(series), read_scan_of(moved)
    content = encode_seg(make_structures(make_masks(stack.shape), stack), stack, **ALGORITHM)

    with pytest.raises(GeometryError, match=r"lies on another grid.*shape 9x7x8.*against shape 9x7x8") as caught:
        read_seg(content, other)
    assert_private(str(caught.value))


def test_row_47_anonymised_scans_give_empty_tags(tmp_path: Path, read_scan_of: Any) -> None:
    series = build_series()
    missing = (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
        "AccessionNumber", "ReferringPhysicianName", "SpecificCharacterSet", "SliceThickness",
    )  # fmt: skip
    for dataset in series.datasets:
        for keyword in missing:
            if keyword in dataset:
                del dataset[keyword]
    stack = read_scan_of(series)
    before = copy.deepcopy(stack.frames[0].header)

    content = encode_seg(make_structures(make_masks(stack.shape), stack), stack, **ALGORITHM)

    dataset = pydicom.dcmread(io.BytesIO(content))
    for keyword in missing[:9]:
        assert not dataset[keyword].value, keyword
    assert stack.frames[0].header == before
    _, _, complaints = run_dcmqi(content, tmp_path)
    assert not re.search(r"\b[WE]:|absent|missing", complaints), complaints


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("is_large", [False, True])
def test_row_48_empty_masks_are_a_valid_segmentation(
    kind: Any, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_scan_of: Any
) -> None:
    if is_large:
        monkeypatch.setattr(seg_write, "_MAX_FULL_BYTES", 0)
    stack = read_scan_of(build_series())
    masks = {name: np.zeros(stack.shape, dtype=bool) for name in ("bladder", "rectum")}

    content = encode_seg(make_structures(masks, stack), stack, kind=kind, **ALGORITHM)

    assert_same_masks(read_seg(content, stack), masks)
    num_frames = pydicom.dcmread(io.BytesIO(content)).NumberOfFrames
    assert num_frames == (8 if kind == "labelmap" else 1 if is_large else 16)
    theirs, _ = read_with_highdicom(content)
    assert not any(mask.any() for mask in theirs.values())
    run_dcmqi(content, tmp_path)


def test_row_49_binary_unless_asked_and_labelmap_warns(read_scan_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    stack = read_scan_of(build_series())
    masks = {"ring": make_masks(stack.shape)["ring"], "rest": ~make_masks(stack.shape)["ring"]}
    structures = make_structures(masks, stack)
    caplog.clear()

    binary = encode_seg(structures, stack, **ALGORITHM)
    assert pydicom.dcmread(io.BytesIO(binary)).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert not caplog.records

    labelmap = encode_seg(structures, stack, kind="labelmap", **ALGORITHM)
    assert pydicom.dcmread(io.BytesIO(labelmap)).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert "before 2024 refuse labelmap" in caplog.text
    assert_same_masks(read_seg(labelmap, stack), masks)


# ---- other faults on the way out


def test_a_labelmap_cannot_hold_overlapping_structures(read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())
    masks = make_masks(stack.shape)

    with pytest.raises(LabelError, match=r"'ring' and 'overlap' overlap; a labelmap .* Write a binary one"):
        encode_seg(make_structures(masks, stack), stack, kind="labelmap", **ALGORITHM)


@pytest.mark.parametrize("name", ["", "a" * 65, "left\\right", " liver", "tab\tname", "line\nbreak"])
def test_names_that_do_not_fit_are_refused(name: str, read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())

    with pytest.raises(LabelError, match="does not fit into DICOM") as caught:
        encode_seg(make_structures({name: make_masks(stack.shape)["ring"]}, stack), stack, **ALGORITHM)
    assert "\n" not in str(caught.value)


def test_no_structures_are_refused(read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())

    with pytest.raises(LabelError, match="no structures"):
        encode_seg(make_structures({}, stack), stack, **ALGORITHM)


def test_codes_that_do_not_fit_are_refused(read_scan_of: Any) -> None:
    stack = read_scan_of(build_series())
    codes = {"ring": Code(value="1", meaning="x" * 65)}

    with pytest.raises(LabelError, match="meaning of 1 to 64"):
        encode_seg(make_structures({"ring": make_masks(stack.shape)["ring"]}, stack, codes=codes), stack, **ALGORITHM)


def test_a_scan_without_frame_of_reference_gets_one_that_its_segmentations_share(
    read_scan_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    series = build_series()
    for dataset in series.datasets:
        del dataset.FrameOfReferenceUID
    stack = read_scan_of(series)
    masks = make_masks(stack.shape)

    contents = [encode_seg(make_structures(masks, stack), stack, **ALGORITHM) for _ in range(2)]

    assert "no FrameOfReferenceUID" in caplog.text
    first, second = (pydicom.dcmread(io.BytesIO(content)) for content in contents)
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert_same_masks(read_seg(contents[0], stack), masks)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_a_scan_without_identifiers_is_refused(keyword: str, read_scan_of: Any) -> None:
    series = build_series()
    stack = read_scan_of(series)
    for frame in stack.frames:
        delattr(frame.header, keyword)

    with pytest.raises(VolumeError, match=f"has no {keyword}; .* must refer"):
        encode_seg(make_structures(make_masks(stack.shape), stack), stack, **ALGORITHM)


@pytest.mark.parametrize("fault", ["bits", "order", "position", "name"])
def test_a_wrong_object_is_never_written(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_scan_of: Any
) -> None:
    stack = read_scan_of(build_series())
    structures = make_structures(make_masks(stack.shape), stack)
    encode = seg_write._to_bytes

    def spoil(dataset: Any) -> bytes:
        groups = dataset.PerFrameFunctionalGroupsSequence
        if fault == "bits":
            dataset.PixelData = dataset.PixelData[:40] + bytes([dataset.PixelData[40] ^ 4]) + dataset.PixelData[41:]
        elif fault == "order":
            groups[0], groups[1] = groups[1], groups[0]
        elif fault == "position":
            position = groups[0].PlanePositionSequence[0].ImagePositionPatient
            groups[0].PlanePositionSequence[0].ImagePositionPatient = [position[0] + 0.05, *position[1:]]
        else:
            dataset.SegmentSequence[1].SegmentLabel = "another"
        return encode(dataset)

    monkeypatch.setattr(seg_write, "_to_bytes", spoil)
    path = tmp_path / "out.dcm"
    path.write_bytes(b"older")
    with pytest.raises(OutputError, match="so it was not written") as caught:
        write_seg(structures, path, stack, **ALGORITHM)
    assert path.read_bytes() == b"older"
    assert "\n" not in str(caught.value)
    assert_private(str(caught.value))


def test_slices_off_the_grid_of_their_volume_are_refused(read_scan_of: Any) -> None:
    """Only a fault of our own reader could make such a stack."""
    stack = read_scan_of(build_series())
    affine = stack.affine.copy()
    affine[2, 3] += 0.5
    wrong = DicomStack(frames=stack.frames, shape=stack.shape, affine=affine)

    with pytest.raises(OutputError, match=r"0\.50 mm off the grid"):
        encode_seg(make_structures(make_masks(stack.shape), wrong), wrong, **ALGORITHM)


def test_large_segmentations_leave_empty_frames_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, read_scan_of: Any
) -> None:
    monkeypatch.setattr(seg_write, "_MAX_FULL_BYTES", 0)
    stack = read_scan_of(build_series())
    masks = make_masks(stack.shape)

    content = encode_seg(make_structures(masks, stack), stack, **ALGORITHM)

    num_occupied = sum(int(mask.any(axis=(0, 1)).sum()) for mask in masks.values())
    assert pydicom.dcmread(io.BytesIO(content)).NumberOfFrames == num_occupied < len(masks) * stack.shape[2]
    assert "without a voxel are left out" in caplog.text
    assert_same_masks(read_seg(content, stack), masks)
    theirs, affine = read_with_highdicom(content)
    matched = match_grids(theirs, affine, Volume(np.zeros((1, *stack.shape)), stack.affine))
    for name, mask in masks.items():
        np.testing.assert_array_equal(matched[name], mask, err_msg=name)


def test_nothing_private_is_logged(read_scan_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    series = build_series()
    for dataset in series.datasets:  # highdicom warns of names without a caret, and refuses these dates
        dataset.PatientName = "CANARY"
        dataset["PatientBirthDate"]._value = "CANARY"
        dataset["StudyTime"]._value = "CANARY"
        dataset["StudyID"]._value = "CANARY" * 4  # pydicom warns of more than 16 characters
        del dataset.FrameOfReferenceUID
    stack = read_scan_of(series)

    content = encode_seg(make_structures(make_masks(stack.shape), stack), stack, **ALGORITHM)

    assert_private(caplog.text)
    assert CANARIES[0].encode() in content  # it belongs to the patient


def test_long_texts_are_cut_and_said(read_scan_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    stack = read_scan_of(build_series())
    structures = make_structures({"ring": make_masks(stack.shape)["ring"]}, stack)

    content = encode_seg(structures, stack, algorithm_name="n" * 70, algorithm_version="1", series_description="a\\b")

    dataset = pydicom.dcmread(io.BytesIO(content))
    assert dataset.SegmentSequence[0].SegmentAlgorithmName == "n" * 64
    assert dataset.SeriesDescription == "a b"
    assert "which fits into DICOM" in caplog.text


# ---- segmentations of others


def make_with_highdicom(
    series: Series, array: np.ndarray, kind: str = "BINARY", *, labels: list[str] | None = None, **options: Any
) -> Dataset:
    """What others write: masks ``(slice, row, column)`` or ``(slice, row, column, segment)`` by highdicom's own way."""
    numbers = options.pop("numbers", None) or list(
        range(1, (array.shape[3] if array.ndim == 4 else int(array.max())) + 1)
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=labels[index] if labels else f"segment-{number}",
            segmented_property_category=PydicomCode("91723000", "SCT", "Anatomical structure"),
            segmented_property_type=PydicomCode("10200004", "SCT", "Liver"),
            algorithm_type="MANUAL",
        )
        for index, number in enumerate(numbers)
    ]
    pixels: Any = array
    if "affine" in options:
        pixels = hd.Volume(
            array,
            options.pop("affine"),
            coordinate_system="PATIENT",
            frame_of_reference_uid=series.datasets[0].FrameOfReferenceUID,
            **({"channels": {"SegmentNumber": numbers}} if array.ndim == 4 else {}),
        )
    seg = hd.seg.Segmentation(
        source_images=series.datasets,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=5,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="others",
        manufacturer_model_name="others",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    return to_plain(seg)


def compress(dataset: Dataset, syntax: str) -> Dataset:
    """Through pydicom, with an encoder of choice: GDCM's for RLE ends the process."""
    if syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
        return to_plain(dataset)
    plugin = {RLELossless: "pylibjpeg", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}[syntax]
    dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return dataset


def to_plain(seg: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(to_content(seg)))


def to_content(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def make_frames(series: Series, seed: int = 0, num_segments: int = 2) -> np.ndarray:
    """Random overlapping masks ``(slice, row, column, segment)``; the first and the fourth slice are empty."""
    shape = (len(series.slices), *series.slices[0].values.shape, num_segments)
    frames = np.random.default_rng(seed).random(shape) < 0.3
    frames[[0, 3]] = False
    frames[1, ..., 0] = False
    return frames.astype(np.uint8)


def to_masks(frames: np.ndarray, names: list[str] | None = None) -> Masks:
    names = names or [f"segment-{number + 1}" for number in range(frames.shape[3])]
    return {name: frames[..., n].transpose(2, 1, 0).astype(bool) for n, name in enumerate(names)}


@pytest.mark.parametrize("omit_empty_frames", [True, False])
def test_frames_that_are_left_out_are_empty(omit_empty_frames: bool, read_scan_of: Any) -> None:
    series = build_series()
    stack = read_scan_of(series)
    frames = make_frames(series)
    dataset = make_with_highdicom(series, frames, omit_empty_frames=omit_empty_frames)

    assert_same_masks(read_seg(dataset, stack), to_masks(frames))

    alone = read_seg(to_content(dataset))
    first = 1 if omit_empty_frames else 0
    assert_same_masks(alone, to_masks(frames[first:]))
    expected = stack.affine.copy()
    expected[:3, 3] += first * stack.affine[:3, 2]
    np.testing.assert_allclose(alone.layers.affine, expected, atol=1e-4)


def test_shuffled_frames_are_sorted_by_place(read_scan_of: Any) -> None:
    series = build_series(shape=(8, 10, 7))
    stack = read_scan_of(series)
    frames = make_frames(series)
    dataset = make_with_highdicom(series, frames, omit_empty_frames=False)
    order = np.random.default_rng(1).permutation(dataset.NumberOfFrames)
    stored = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little").reshape(len(order), -1)
    dataset.PixelData = np.packbits(stored[order], bitorder="little").tobytes()
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]

    assert_same_masks(read_seg(dataset, stack), to_masks(frames))
    assert_same_masks(read_seg(dataset), to_masks(frames))


@pytest.mark.parametrize(
    ("axes", "flips"),
    [
        ((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, -1, -1)), ((1, 2, 0), (1, 1, 1)), ((1, 2, 0), (-1, 1, 1)),
        ((2, 0, 1), (1, -1, 1)), ((1, 0, 2), (1, 1, -1)), ((2, 1, 0), (-1, 1, -1)), ((2, 1, 0), (1, 1, 1)),
        ((0, 2, 1), (1, -1, -1)), ((2, 1, 0), (1, -1, 1)), ((2, 1, 0), (1, 1, -1)),
    ],
)  # fmt: skip
def test_frames_in_any_axis_order_and_direction_find_their_voxels(
    axes: tuple[int, int, int], flips: tuple[int, int, int], read_scan_of: Any
) -> None:
    series = build_series(shape=(5, 7, 6))
    stack = read_scan_of(series)
    mask = np.random.default_rng(0).random(stack.shape) < 0.3
    affine = LPS_TO_RAS @ stack.affine
    other = np.eye(4)
    other[:3, :3] = affine[:3, list(axes)] * flips
    starts = [(n - 1) if flip < 0 else 0 for n, flip in zip(np.array(stack.shape)[list(axes)], flips, strict=True)]
    other[:3, 3] = affine[:3, 3] + affine[:3, list(axes)] @ starts
    array = mask.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]

    dataset = make_with_highdicom(series, np.ascontiguousarray(array).astype(np.uint8), affine=other)

    assert_same_masks(read_seg(dataset, stack), {"segment-1": mask})


@pytest.mark.parametrize("case", ["smaller", "larger and empty there", "larger"])
def test_frames_of_another_extent(case: str, read_scan_of: Any) -> None:
    series = build_series(shape=(6, 7, 5))
    stack = read_scan_of(series)
    affine = (LPS_TO_RAS @ stack.affine)[:, [2, 1, 0, 3]]  # slice, row, column
    mask = np.random.default_rng(0).random((5, 6, 7)) < 0.4
    if case == "smaller":
        mask[[0, -1]], mask[:, :2], mask[:, :, -1] = False, False, False
        array, start = mask[1:-1, 2:, :-1], (1, 2, 0)
    else:
        array, start = np.pad(mask, ((2, 1), (1, 3), (4, 2))), (-2, -1, -4)
        array[0, 0, 0] = case == "larger"
    affine[:3, 3] += affine[:3, :3] @ start
    dataset = make_with_highdicom(series, array.astype(np.uint8), affine=affine, omit_empty_frames=False)

    if case == "larger":
        with pytest.raises(GeometryError, match=r"voxels outside the scan: shape 13x10x8.*against shape 7x6x5"):
            read_seg(dataset, stack)
    else:
        assert_same_masks(read_seg(dataset, stack), {"segment-1": mask.transpose(2, 1, 0)})


def test_a_segmentation_of_the_straightened_volume_of_a_tilted_scan(read_scan_of: Any) -> None:
    """Others segment the volume that we give them, on its rectangular grid."""
    series = build_series(tilt_degrees=14.0)
    stack = read_scan_of(series)
    mask = np.random.default_rng(0).random(stack.shape) < 0.3
    affine = (LPS_TO_RAS @ stack.affine)[:, [2, 1, 0, 3]]
    array = np.ascontiguousarray(mask.transpose(2, 1, 0)).astype(np.uint8)

    dataset = make_with_highdicom(series, array, affine=affine)

    assert_same_masks(read_seg(dataset, stack), {"segment-1": mask})


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless]
)
def test_fractional_segmentations_are_cut_at_half(
    syntax: str, read_scan_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    series = build_series(shape=COMPRESSIBLE)
    stack = read_scan_of(series)
    values = np.random.default_rng(0).integers(0, 201, (COMPRESSIBLE[2], *COMPRESSIBLE[:2], 2))
    values[2, 3, 4], values[2, 3, 5] = 100, 99
    caplog.clear()

    options = {"max_fractional_value": 200, "omit_empty_frames": False}
    dataset = compress(make_with_highdicom(series, values / 200, "FRACTIONAL", **options), syntax)

    assert_same_masks(read_seg(to_content(dataset), stack), to_masks(values >= 100))
    assert "values from 100 of 200 are taken as inside" in caplog.text


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, "deflated"])
def test_binary_segmentations_in_all_encodings(syntax: str, tmp_path: Path, read_scan_of: Any) -> None:
    series = build_series(shape=COMPRESSIBLE)
    stack = read_scan_of(series)
    frames = make_frames(series)
    is_deflated = syntax == "deflated"
    dataset = make_with_highdicom(series, frames, transfer_syntax_uid=ExplicitVRLittleEndian if is_deflated else syntax)
    if is_deflated:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "seg"
    path.write_bytes(to_content(dataset))

    assert_same_masks(read_seg(path, stack), to_masks(frames))
    assert_same_masks(read_seg(DicomFile(path), stack), to_masks(frames))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("largest", [9, 700])
def test_labelmaps_with_numbers_of_their_own(syntax: str, largest: int, read_scan_of: Any) -> None:
    series = build_series(shape=COMPRESSIBLE)
    stack = read_scan_of(series)
    numbers = [2, 5, largest]
    labels = np.random.default_rng(0).choice([0, *numbers], (COMPRESSIBLE[2], *COMPRESSIBLE[:2])).astype(np.uint16)
    dataset = compress(make_with_highdicom(series, labels, "LABELMAP", numbers=numbers), syntax)
    expected = {f"segment-{number}": labels.transpose(2, 1, 0) == number for number in numbers}

    found = read_seg(to_content(dataset), stack)

    assert_same_masks(found, expected)
    assert len(found.layers.array) == 1
    assert len({structure.color for structure in found.structures}) == 3
    some = read_seg(dataset, stack, names=["segment-5"])
    assert_same_masks(some, {"segment-5": expected["segment-5"]})
    assert set(np.unique(some.layers.array)) == {0, 5}


def test_labelmap_values_without_a_segment_are_refused(read_scan_of: Any) -> None:
    series = build_series()
    labels = np.random.default_rng(0).integers(0, 4, (8, 7, 9)).astype(np.uint8)
    dataset = make_with_highdicom(series, labels, "LABELMAP")
    del dataset.SegmentSequence[2]

    with pytest.raises(LabelError, match="holds value 2, which it does not describe"):
        read_seg(dataset, read_scan_of(series))


def test_names_choose_segments(read_scan_of: Any) -> None:
    series = build_series()
    stack = read_scan_of(series)
    frames = make_frames(series, num_segments=3)
    dataset = make_with_highdicom(series, frames, labels=["liver", "spleen", "colon"])
    masks = to_masks(frames, ["liver", "spleen", "colon"])

    found = read_seg(dataset, stack, names={"colon", "liver"})

    assert_same_masks(found, {"liver": masks["liver"], "colon": masks["colon"]})
    with pytest.raises(LabelError, match="no segment 'heart'; it has 'liver', 'spleen', 'colon'"):
        read_seg(dataset, stack, names=["liver", "heart"])


def test_equal_and_missing_labels_are_told_apart(read_scan_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    series = build_series()
    frames = make_frames(series, num_segments=4)
    dataset = make_with_highdicom(series, frames, labels=["node", "node", "node (2)", "x"])
    dataset.SegmentSequence[3].SegmentLabel = ""
    names = ["node", "node (2)", "node (2) (2)", "segment 4"]

    found = read_seg(dataset, read_scan_of(series))

    assert_same_masks(found, to_masks(frames, names))
    assert "several segments named 'node'" in caplog.text


def test_segments_without_frames_stay_listed(read_scan_of: Any) -> None:
    series = build_series()
    frames = make_frames(series, num_segments=3)
    frames[..., 1] = 0
    dataset = make_with_highdicom(series, frames, omit_empty_frames=True)

    assert_same_masks(read_seg(dataset, read_scan_of(series)), to_masks(frames))
    assert [segment.number for segment in list_segments(dataset)] == [1, 2, 3]


def test_one_frame_is_as_thick_as_the_file_says(read_scan_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    series = build_series()
    frames = np.zeros((8, 7, 9, 1), dtype=np.uint8)
    frames[4, 2:5, 3] = 1
    dataset = make_with_highdicom(series, frames)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert dataset.NumberOfFrames == 1

    found = read_seg(dataset)
    assert found.layers.spacing == pytest.approx((1.3, 0.8, 2.5))
    np.testing.assert_allclose(found.layers.affine[:3, 3], read_scan_of(series).affine[:3] @ [0, 0, 4, 1], atol=1e-4)

    del measures.SpacingBetweenSlices
    assert read_seg(dataset).layers.spacing == pytest.approx((1.3, 0.8, 5.0))  # SliceThickness

    caplog.clear()
    del measures.SliceThickness
    assert read_seg(dataset).layers.spacing == pytest.approx((1.3, 0.8, 1.0))
    assert "1 mm is assumed" in caplog.text


@pytest.mark.parametrize("stated", ["right", "absent", "wrong"])
def test_own_grid_fills_gaps_at_multiples_of_the_step(stated: str) -> None:
    series = build_series()
    frames = make_frames(series)[..., :1]
    dataset = make_with_highdicom(series, frames)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if stated == "absent":
        del measures.SpacingBetweenSlices
    elif stated == "wrong":
        measures.SpacingBetweenSlices = 1.9

    found = read_seg(dataset)

    assert_same_masks(found, to_masks(frames[2:]))  # the third is the first that has a voxel; the fourth has none
    assert found.layers.spacing == pytest.approx((1.3, 0.8, 2.5))


def test_own_grid_has_the_stated_step_where_every_other_frame_is_left_out() -> None:
    series = build_series()
    frames = make_frames(series)[..., :1] * 0
    frames[2:7:2, 3, 4] = 1

    found = read_seg(make_with_highdicom(series, frames))

    assert_same_masks(found, to_masks(frames[2:7]))
    assert found.layers.spacing == pytest.approx((1.3, 0.8, 2.5))


def test_own_grid_of_uneven_frames_is_refused(read_scan_of: Any) -> None:
    series = build_series(positions=(0.0, 2.0, 4.0, 9.0, 11.0, 13.6, 15.5, 17.5))
    stack = read_scan_of(series, allow_gaps=True)
    content = encode_seg(make_structures({"full": make_masks(stack.shape)["full"]}, stack), stack, **ALGORITHM)

    with pytest.raises(GeometryError, match=r"uneven distances \(1.900 to 5.000 mm\).*Give the scan"):
        read_seg(content)


def test_own_grid_of_frames_that_are_shifted_within_their_planes_is_refused() -> None:
    dataset = make_with_highdicom(series := build_series(), make_frames(series))
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        if np.allclose(np.array(position, dtype=float), series.slices[5].plane[:3, 3]):
            moved = np.array(position, dtype=float) + 3.0 * OBLIQUE[:, 0]
            group.PlanePositionSequence[0].ImagePositionPatient = to_ds(moved)

    with pytest.raises(GeometryError, match=r"3\.00 mm off a straight path"):
        read_seg(dataset)


def test_own_grid_of_two_orientations_is_refused() -> None:
    dataset = make_with_highdicom(series := build_series(), make_frames(series))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    turned = copy.deepcopy(shared.PlaneOrientationSequence)
    turned[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = turned

    with pytest.raises(GeometryError, match="several orientations"):
        read_seg(dataset)


# ---- damaged segmentations


def damage(dataset: Dataset, fault: str) -> None:
    groups, shared = dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence[0]
    match fault:
        case "no segments":
            del dataset.SegmentSequence
        case "no frames":
            dataset.NumberOfFrames = 0
        case "a frame too few":
            del groups[-1]
        case "pixels cut":
            dataset.PixelData = dataset.PixelData[:-10]
        case "no pixels":
            del dataset.PixelData
        case "no position":
            del groups[3].PlanePositionSequence
        case "no spacing":
            del shared.PixelMeasuresSequence[0].PixelSpacing
        case "no segment of a frame":
            del groups[2].SegmentIdentificationSequence
        case "unknown segment":
            groups[2].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7
        case "two frames at one place":
            groups[2].PlanePositionSequence = groups[1].PlanePositionSequence
            groups[2].SegmentIdentificationSequence = groups[1].SegmentIdentificationSequence
        case "segment described twice":
            dataset.SegmentSequence[1].SegmentNumber = 1
        case "unknown type":
            dataset.SegmentationType = "CANARY"
        case "bits":
            dataset.BitsAllocated = 16
        case "spacing":
            shared.PixelMeasuresSequence[0].PixelSpacing = [0, 1]
        case "orientation":
            shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
        case "position":
            groups[0].PlanePositionSequence[0].ImagePositionPatient = [1e9, 0, 0]
        case "text":
            groups[0].PlanePositionSequence[0]["ImagePositionPatient"]._value = ["CANARY", "0", "0"]
        case "rows":
            dataset.Rows = 0
        case _:
            raise AssertionError(fault)


FAULTS = (
    "no segments", "no frames", "a frame too few", "pixels cut", "no pixels", "no position", "no spacing",
    "no segment of a frame", "unknown segment", "two frames at one place", "segment described twice", "unknown type",
    "bits", "spacing", "orientation", "position", "text", "rows",
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_segmentations_are_one_error(fault: str, tmp_path: Path, read_scan_of: Any) -> None:
    series = build_series()
    dataset = make_with_highdicom(series, make_frames(series))
    damage(dataset, fault)
    path = tmp_path / "damaged.dcm"
    path.write_bytes(to_content(dataset))

    for stack in (None, read_scan_of(series)):
        with pytest.raises(VolumeError, match=re.escape(str(path))) as caught:
            read_seg(path, stack)
        assert "\n" not in str(caught.value)
        assert_private("".join(traceback.format_exception(caught.value)))


def test_segmentations_cut_short_anywhere_are_errors(read_scan_of: Any) -> None:
    series = build_series(shape=(5, 6, 4))
    frames = np.random.default_rng(0).random((4, 5, 6, 2)) < 0.4
    content = to_content(make_with_highdicom(series, frames.astype(np.uint8)))
    stack = read_scan_of(series)

    for length in [*range(0, len(content), 101), len(content) - 1]:
        with pytest.raises(MedunetError) as caught:
            read_seg(content[:length], stack)
        assert_private("".join(traceback.format_exception(caught.value)))


def test_flipped_bytes_never_crash(read_scan_of: Any) -> None:
    series = build_series(shape=(5, 6, 4))
    frames = np.random.default_rng(0).random((4, 5, 6, 2)) < 0.4
    content = to_content(make_with_highdicom(series, frames.astype(np.uint8), omit_empty_frames=False))
    stack = read_scan_of(series)
    rng = np.random.default_rng(1)

    num_refused = 0
    for _ in range(70):
        spoiled = bytearray(content)
        spoiled[rng.integers(132, len(content))] ^= int(rng.integers(1, 256))
        try:
            read_seg(bytes(spoiled), stack)
        except MedunetError as error:
            assert_private("".join(traceback.format_exception(error)))
            num_refused += 1
    assert 5 < num_refused < 70


def test_other_files_are_refused(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "scan")
    with pytest.raises(VolumeError, match="no DICOM segmentation but CT Image Storage"):
        read_seg(folder / series.names[0])
    text = tmp_path / "notes.txt"
    text.write_text("nothing of use " * 40)
    with pytest.raises(VolumeError, match="no DICOM file but a text file"):
        list_segments(text)
    with pytest.raises(VolumeError, match="cannot be opened"):
        read_seg(tmp_path / "missing.dcm")


# ---- real scans


@pytest.mark.realdata
def test_real_prostate_mr(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dicom" / "prostate-mr-study-7-series"
    check_real(read_stack(folder, ReadOptions(series="t2_tse_tra")), tmp_path)


@pytest.mark.realdata
def test_real_enhanced_mr_without_frame_of_reference(real_data: Path, tmp_path: Path) -> None:
    check_real(read_stack(real_data / "dicom" / "enhanced-multiframe-philips" / "001"), tmp_path)


@pytest.mark.realdata
def test_real_ct(real_data: Path, tmp_path: Path) -> None:
    check_real(read_stack(real_data / "dicom" / "ct-gantry-tilt" / "S2010"), tmp_path)


@pytest.mark.realdata
def test_real_ct_with_tilt_and_gaps(real_data: Path, tmp_path: Path) -> None:
    stack = read_stack(real_data / "dicom" / "ct-gantry-tilt-and-gaps", ReadOptions(allow_gaps=True))
    assert stack.regrid is not None
    check_real(stack, tmp_path)


def check_real(stack: DicomStack, tmp_path: Path) -> None:
    i, j, k = (n // 5 for n in stack.shape)
    masks = {name: np.zeros(stack.shape, dtype=bool) for name in ("box", "shell", "empty")}
    masks["box"][i : 3 * i, 2 * j : 4 * j, k : 2 * k + 1] = True
    masks["shell"][i - 3 : 4 * i, j : 4 * j, : 3 * k] = True
    masks["shell"][i : 3 * i, 2 * j : 3 * j, k : 2 * k] = False
    path = tmp_path / "seg.dcm"

    write_seg(make_structures(masks, stack, codes={"box": LIVER}), path, stack, **ALGORITHM)

    found = read_seg(path, stack)
    assert_same_masks(found, {n: stack.labels_from_frames(stack.labels_to_frames(m)) for n, m in masks.items()})
    if stack.regrid is None:
        (tmp_path / "dcmqi").mkdir()
        theirs, affine, _ = run_dcmqi(path.read_bytes(), tmp_path / "dcmqi")
        matched = match_grids(theirs, affine, found.layers)
        for number, mask in enumerate(masks.values(), start=1):
            np.testing.assert_array_equal(matched[str(number)], mask)
