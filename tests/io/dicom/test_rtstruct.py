"""RT structure sets: written and read back on stacks in any direction, and read with every fault they may have."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as MatplotlibPath
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, generate_uid

from medunet.errors import GeometryError, LabelError, OutputError, VolumeError
from medunet.io.dicom import rtstruct_write
from medunet.io.dicom.contours import trace_contours
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.frames import Frame
from medunet.io.dicom.read import read_stack
from medunet.io.dicom.rtstruct_file import RoiInfo, find_referenced_series_uid, list_rois
from medunet.io.dicom.rtstruct_read import read_rtstruct
from medunet.io.dicom.rtstruct_write import encode_rtstruct, write_rtstruct
from medunet.io.dicom.stack import DicomStack, build_stack
from medunet.io.structures import Code, Structure, StructureSet, from_masks
from medunet.volume import Volume

ALGORITHM = {"algorithm_name": "prostate-ct", "algorithm_version": "1.2"}
SHAPE = (11, 7, 6)  # columns, rows, slices
TURNS = {
    f"{along_row}{along_column}": (along_row, along_column)
    for along_row, along_column in [("L", "P"), ("R", "A"), ("P", "I"), ("A", "I"), ("L", "I"), ("R", "S")]
}
AXES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def turn(*angles_degrees: float) -> np.ndarray:
    """Rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_degrees)):
        a, b = [n for n in range(3) if n != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = math.cos(angle)
        step[a, b], step[b, a] = -math.sin(angle), math.sin(angle)
        result = step @ result
    return result


def directions(name: str) -> np.ndarray:
    """Directions of columns, rows and normal in LPS, as columns of a matrix."""
    if name == "oblique":
        return turn(31, 40, -22)
    row, column = (np.array(AXES[letter]) for letter in TURNS[name])
    return np.stack([row, column, np.cross(row, column)], axis=1).astype(float)


def build_header(**changes: Any) -> Dataset:
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    header.PatientName, header.PatientID, header.PatientBirthDate = "CANARY^PATIENT", "4711-SECRET", "19010203"
    header.PatientSex, header.StudyDate, header.StudyTime = "O", "20240517", "101500"
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "7", "A1", "CANARY^DOCTOR"
    for keyword, value in changes.items():
        setattr(header, keyword, value)
    return header


def make_stack(
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = (0.8, 1.3, 2.5),
    orientation: str = "oblique",
    *,
    origin: tuple[float, float, float] = (-31.0, 12.5, -140.25),
    positions: list[float] | None = None,
    tilt_degrees: float = 0.0,
    headers: list[Dataset] | None = None,
) -> DicomStack:
    """Slices without files; ``shape`` and ``spacing`` are those of columns, rows and slices."""
    columns, rows, count = shape
    axes = directions(orientation)
    heights = positions or [spacing[2] * n for n in range(count)]
    frames = []
    for n, height in enumerate(heights):
        plane = np.eye(4)
        plane[:3, :3] = axes * (spacing[0], spacing[1], 1)
        plane[:3, 3] = origin + height * (axes[:, 2] + math.tan(math.radians(tilt_degrees)) * axes[:, 1])
        header = headers[n] if headers else build_header()
        if count == 1:
            header.SliceThickness = spacing[2]
        frame = Frame(
            file=DicomFile(Path(f"scan/CT{n:03d}.dcm")),
            header=header,
            index=n if "NumberOfFrames" in header else 0,
            shape=(rows, columns),
            plane=plane,
            groups=(header,),
        )
        frames.append(frame)
    return build_stack(frames, allow_gaps=positions is not None)


def make_structures(stack: DicomStack, **masks: np.ndarray) -> StructureSet:
    grid = Volume(np.zeros((1, *stack.shape), dtype=np.uint8), stack.affine)
    return from_masks(masks.items(), grid)


def make_masks(shape: tuple[int, int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Structures with a hole, at the border, of one voxel, that touch and overlap, and an empty one."""
    masks = {name: np.zeros(shape, dtype=bool) for name in ("ring", "border", "dot", "beside", "random", "empty")}
    masks["ring"][2:9, 1:6, 1:5] = True
    masks["ring"][4:6, 3, 2:4] = False
    masks["border"][:3, :, :2] = masks["border"][-2:, -3:, -1] = True
    masks["dot"][5, 4, 3] = True
    masks["beside"][9:, 1:6, 1:5] = True
    masks["random"] = np.random.default_rng(3).random(shape) < 0.4
    return masks


def encode(structures: StructureSet, stack: DicomStack) -> Dataset:
    return pydicom.dcmread(io.BytesIO(encode_rtstruct(structures, stack, **ALGORITHM)))


def list_contours(dataset: Dataset) -> list[Dataset]:
    return [contour for roi in dataset.ROIContourSequence for contour in roi.get("ContourSequence", [])]


def check_same(read: StructureSet, masks: dict[str, np.ndarray]) -> None:
    assert [structure.name for structure in read.structures] == list(masks)
    for structure in read.structures:
        assert np.array_equal(read.get_mask(structure), masks[structure.name]), structure.name


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was logged; and no test's log may name the patient."""
    caplog.set_level(logging.INFO)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(autouse=True)
def _no_patient_in_logs(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert "CANARY" not in caplog.text
    assert "4711" not in caplog.text


# ---- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [*TURNS, "oblique"])
def test_structures_survive_the_round_trip_in_every_orientation(orientation: str, tmp_path: Path) -> None:
    stack, masks = make_stack(orientation=orientation), make_masks()
    structures = make_structures(stack, **masks)
    write_rtstruct(structures, tmp_path / "rs.dcm", stack, **ALGORITHM)
    read = read_rtstruct(tmp_path / "rs.dcm", stack)
    check_same(read, masks)
    assert np.array_equal(read.layers.affine, stack.affine)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5)),
    spacing=st.tuples(*[st.sampled_from([1e-3, 0.05, 0.7, 1.0, 3.3, 12.0])] * 3),
    orientation=st.sampled_from([*TURNS, "oblique"]),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    density=st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 1000),
)
def test_any_mask_survives_the_round_trip_on_any_grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    orientation: str,
    origin: tuple[float, float, float],
    density: float,
    seed: int,
) -> None:
    stack = make_stack(shape, spacing, orientation, origin=origin)
    rng = np.random.default_rng(seed)
    masks = {name: rng.random(shape) < density for name in ("first", "second")}
    dataset = encode(make_structures(stack, **masks), stack)
    check_same(read_rtstruct(dataset, stack), masks)
    texts = [str(text) for item in list_contours(dataset) for text in item.ContourData]
    assert all(len(text) <= 16 for text in texts)


def test_decimal_strings_stay_short_under_a_microscope_far_from_the_origin() -> None:
    stack, masks = make_stack(spacing=(3e-6, 2e-6, 5e-6), origin=(-91234.5, 12345.6, 5.0)), make_masks()
    dataset = encode(make_structures(stack, **masks), stack)
    assert max(len(str(text)) for item in list_contours(dataset) for text in item.ContourData) == 16
    check_same(read_rtstruct(dataset, stack), masks)


def test_a_voxel_lies_where_the_affine_says() -> None:
    """The points of a contour, flipped to RAS, surround the world position of its voxel, half a voxel away."""
    stack = make_stack()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[8, 2, 4] = True
    (contour,) = list_contours(encode(make_structures(stack, dot=mask), stack))
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) * (-1, -1, 1)
    voxels = np.linalg.inv(stack.affine) @ np.vstack([points.T, np.ones(4)])
    offsets = voxels[:3].T - (8, 2, 4)
    expected = {(0.5, 0, 0), (-0.5, 0, 0), (0, 0.5, 0), (0, -0.5, 0)}
    assert {tuple(offset) for offset in (np.round(offsets, 3) + 0.0).tolist()} == expected


def test_another_program_fills_the_same_voxels() -> None:
    """Matplotlib's test of points in polygons, by the even-odd rule, on contours found by the image they refer to."""
    stack, masks = make_stack(), make_masks()
    dataset = encode(make_structures(stack, **masks), stack)
    indices = {frame.header.SOPInstanceUID: k for k, frame in enumerate(stack.frames)}
    centres = np.stack(np.meshgrid(range(SHAPE[0]), range(SHAPE[1]), indexing="ij"), axis=-1).reshape(-1, 2)
    for roi, (name, mask) in zip(dataset.ROIContourSequence, masks.items(), strict=True):
        filled = np.zeros(SHAPE, dtype=bool)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) * (-1, -1, 1)
            voxels = np.linalg.inv(stack.affine) @ np.vstack([points.T, np.ones(len(points))])
            k = indices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert np.abs(voxels[2] - k).max() < 1e-3
            filled[:, :, k] ^= MatplotlibPath(voxels[:2].T).contains_points(centres).reshape(SHAPE[:2])
        assert np.array_equal(filled, mask), name


def test_overlapping_structures_come_back_in_layers() -> None:
    stack, masks = make_stack(), make_masks()
    read = read_rtstruct(encode(make_structures(stack, **masks), stack), stack)
    assert (masks["ring"] & masks["random"]).any()
    assert read.layers.num_channels > 1
    with pytest.raises(LabelError, match="overlap"):
        read.to_label_map()


def test_colors_and_codes_survive() -> None:
    stack = make_stack()
    code = Code(value="41216001", meaning="Prostate")
    long_code = Code(value="123456789012345678901", meaning="a local term", scheme="99LOCAL")
    layers = Volume(np.ones((1, *SHAPE), dtype=np.uint8), stack.affine)
    structures = (
        Structure(name="prostate", values=(1,), color=(12, 200, 255), code=code),
        Structure(name="other", values=(2,), color=(0, 1, 2), code=long_code),
        Structure(name="plain", values=(3,)),
    )
    dataset = encode(StructureSet(layers=layers, structures=structures), stack)
    short, long = (item.RTROIIdentificationCodeSequence[0] for item in dataset.RTROIObservationsSequence[:2])
    assert (short.CodeValue, long.LongCodeValue) == (code.value, long_code.value)
    assert "CodeValue" not in long
    read = read_rtstruct(dataset, stack)
    assert [structure.color for structure in read.structures] == [structure.color for structure in structures]
    assert [structure.code for structure in read.structures] == [code, long_code, None]


def test_names_may_hold_any_letter_and_regions_several_values() -> None:
    stack = make_stack()
    layers = Volume(np.random.default_rng(0).integers(0, 4, (1, *SHAPE)), stack.affine)
    structures = (Structure(name="Prostata, vergrößert 前立腺 é", values=(1, 3)), Structure(name="Ω", values=(2,)))
    read = read_rtstruct(encode(StructureSet(layers=layers, structures=structures), stack), stack)
    assert [structure.name for structure in read.structures] == [structure.name for structure in structures]
    assert np.array_equal(read.get_mask(read.structures[0]), np.isin(layers.array[0], (1, 3)))


@pytest.mark.parametrize("tilt_degrees", [18.5, -4.0])
def test_on_tilted_slices_contours_lie_on_the_slices_that_were_scanned(tilt_degrees: float, tmp_path: Path) -> None:
    stack = make_stack((9, 30, 7), orientation="LP", tilt_degrees=tilt_degrees)
    assert stack.regrid is not None
    frames_mask = np.random.default_rng(1).random((7, 30, 9)) < 0.4
    mask = stack.labels_from_frames(frames_mask)
    write_rtstruct(make_structures(stack, mask=mask), tmp_path / "rs.dcm", stack, **ALGORITHM)
    read = read_rtstruct(tmp_path / "rs.dcm", stack)
    assert np.array_equal(read.get_mask(read.structures[0]), mask)
    planes = {frame.header.SOPInstanceUID: frame.plane for frame in stack.frames}
    for contour in list_contours(pydicom.dcmread(tmp_path / "rs.dcm")):
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        plane = planes[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        pixels = np.linalg.inv(plane) @ np.vstack([points.T, np.ones(len(points))])
        assert np.abs(pixels[2]).max() < 1e-3
        assert np.abs(pixels[:2] * 2 - np.round(pixels[:2] * 2)).max() < 1e-3


def test_on_uneven_slices_contours_lie_on_the_slices_that_were_scanned(tmp_path: Path) -> None:
    stack = make_stack(positions=[0, 2, 4, 10, 12, 14])
    assert stack.regrid is not None
    mask = stack.labels_from_frames(np.random.default_rng(1).random((6, 7, 11)) < 0.4)
    write_rtstruct(make_structures(stack, mask=mask), tmp_path / "rs.dcm", stack, **ALGORITHM)
    read = read_rtstruct(tmp_path / "rs.dcm", stack)
    assert np.array_equal(read.get_mask(read.structures[0]), mask)


# ---- the object ------------------------------------------------------------------------------------------------------


def test_every_attribute_that_the_standard_demands_is_there() -> None:
    """Against the tables of PS3.3 that highdicom carries: type 1 with a value, type 2 at least empty."""
    tables = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((tables / "module_attribute_map.json").read_text())
    iod = json.loads((tables / "iod_module_map.json").read_text())["rt-structure-set"]
    used = {module["key"] for module in iod if module["usage"] == "M"} | {"frame-of-reference", "approval"}
    stack, masks = make_stack(), make_masks()
    dataset = encode(make_structures(stack, ring=masks["ring"], empty=masks["empty"]), stack)
    for attribute in itertools.chain.from_iterable(modules[key] for key in used):
        items = [dataset]
        for keyword in attribute["path"]:
            items = [nested for item in items for nested in item.get(keyword) or []]
        for item in items:
            if attribute["type"] in ("1", "2"):
                assert attribute["keyword"] in item, attribute
            if attribute["type"] == "1":
                assert item[attribute["keyword"]].value not in (None, "", []), attribute


def test_patient_study_and_images_are_those_of_the_series() -> None:
    stack = make_stack()
    dataset = encode(make_structures(stack, **make_masks()), stack)
    header = stack.frames[0].header
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "StudyID",
    ):
        assert dataset[keyword].value == header[keyword].value
    assert dataset.SeriesInstanceUID != header.SeriesInstanceUID
    assert not any(element.tag.is_private for element in dataset.iterall())
    (frame_of_reference,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame_of_reference.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert study.ReferencedSOPInstanceUID == header.StudyInstanceUID
    assert series.SeriesInstanceUID == find_referenced_series_uid(dataset) == header.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence] == [
        frame.header.SOPInstanceUID for frame in stack.frames
    ]


def test_each_contour_names_the_image_on_which_it_lies() -> None:
    stack = make_stack()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:5, 2:4, 4] = True
    (contour,) = list_contours(encode(make_structures(stack, slab=mask), stack))
    (image,) = contour.ContourImageSequence
    assert image.ReferencedSOPInstanceUID == stack.frames[4].header.SOPInstanceUID
    assert "ReferencedFrameNumber" not in image


def test_contours_on_a_multi_frame_image_name_the_frame() -> None:
    header = build_header(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=6)
    stack = make_stack(headers=[header] * 6)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:5, 2:4, 4] = True
    dataset = encode(make_structures(stack, slab=mask), stack)
    assert list_contours(dataset)[0].ContourImageSequence[0].ReferencedFrameNumber == 5
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(series.ContourImageSequence) == 1
    assert "ReferencedFrameNumber" not in series.ContourImageSequence[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("prostate", "ORGAN"),
        ("CTV_high", "CTV"),
        ("gtv 1", "GTV"),
        ("PTV", "PTV"),
        ("BODY", "EXTERNAL"),
        ("body of T12", "ORGAN"),
    ],
)
def test_target_volumes_are_typed_by_their_names(name: str, expected: str) -> None:
    stack = make_stack()
    dataset = encode(make_structures(stack, **{name: np.ones(SHAPE, dtype=bool)}), stack)
    assert dataset.RTROIObservationsSequence[0].RTROIInterpretedType == expected


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 192", "Ωmega"),
    ],
)
def test_a_patients_name_in_another_alphabet_is_kept(charset: str, name: str) -> None:
    source = build_header(SpecificCharacterSet=["", charset] if "2022" in charset else charset, PatientName=name)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, source, implicit_vr=True, little_endian=True)
    header = pydicom.dcmread(io.BytesIO(buffer.getvalue()), force=True)
    stack = make_stack(headers=[header] * 6)
    dataset = encode(make_structures(stack, **make_masks()), stack)
    assert str(dataset.PatientName) == name


def test_row_46_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    structures = make_structures(make_stack(origin=(-31.0, 12.5, -137.75)), **make_masks())
    with pytest.raises(GeometryError, match=r"different grids.*CT000.dcm|CT000.dcm.*different grids"):
        write_rtstruct(structures, tmp_path / "rs.dcm", make_stack(), **ALGORITHM)
    assert list(tmp_path.iterdir()) == []


def test_row_47_an_anonymised_source_gives_empty_tags() -> None:
    headers = [build_header() for _ in range(6)]
    type_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    for header in headers:
        for keyword in (*type_2, "AccessionNumber", "ReferringPhysicianName"):
            delattr(header, keyword)
    stack = make_stack(headers=headers)
    dataset = encode(make_structures(stack, **make_masks()), stack)
    for keyword in (*type_2, "AccessionNumber", "ReferringPhysicianName"):
        assert dataset[keyword].is_empty


@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID"]
)
def test_a_source_without_an_identifier_is_refused(keyword: str) -> None:
    stack = make_stack()
    for frame in stack.frames:
        delattr(frame.header, keyword)
    with pytest.raises(VolumeError, match=rf"CT000.dcm has no {keyword}"):
        encode_rtstruct(make_structures(stack, **make_masks()), stack, **ALGORITHM)


def test_row_48_empty_structures_are_listed_without_contours(tmp_path: Path, messages: Callable[[], str]) -> None:
    stack = make_stack()
    empty = np.zeros(SHAPE, dtype=bool)
    write_rtstruct(make_structures(stack, left=empty, right=empty), tmp_path / "rs.dcm", stack, **ALGORITHM)
    assert messages() == ""
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    assert [item.ROIName for item in dataset.StructureSetROISequence] == ["left", "right"]
    assert all("ContourSequence" not in item for item in dataset.ROIContourSequence)
    assert list_rois(tmp_path / "rs.dcm") == [RoiInfo(1, "left", 0), RoiInfo(2, "right", 0)]
    check_same(read_rtstruct(tmp_path / "rs.dcm", stack), {"left": empty, "right": empty})
    assert "ROI 'left': it has no voxel" in messages()


@pytest.mark.parametrize(
    ("name", "match"), [("x" * 65, "65 characters"), ("a\\b", "backslash"), ("a\nb", "line breaks"), (" ", "1 to 64")]
)
def test_names_that_dicom_cannot_hold_are_refused(name: str, match: str) -> None:
    stack = make_stack()
    with pytest.raises(OutputError, match=match):
        encode_rtstruct(make_structures(stack, **{name: np.ones(SHAPE, dtype=bool)}), stack, **ALGORITHM)


def test_no_structure_at_all_is_refused() -> None:
    stack = make_stack()
    with pytest.raises(OutputError, match="no structure"):
        encode_rtstruct(make_structures(stack), stack, **ALGORITHM)


def test_contours_that_do_not_read_back_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, (path, old) = make_stack(), (tmp_path / "rs.dcm", b"an older file")
    path.write_bytes(old)
    monkeypatch.setattr(
        rtstruct_write, "trace_contours", lambda mask: [polygon[:, ::-1] for polygon in trace_contours(mask)]
    )
    with pytest.raises(OutputError, match=r"'ring' differ from the mask in \d+ voxel"):
        write_rtstruct(make_structures(stack, **make_masks()), path, stack, **ALGORITHM)
    assert path.read_bytes() == old


# ---- reading what others write ---------------------------------------------------------------------------------------


def build_rtstruct(
    stack: DicomStack, rois: dict[str, list[tuple[float, list[tuple[float, float]]]]], **header: Any
) -> Dataset:
    """A sparse RT structure set of another system.

    Args:
        stack: On which the contours lie.
        rois: Name -> contours: a slice index, with fractions, and ``(column, row)`` corners.
        header: Attributes that differ.
    """
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
    series, study, frame_of_reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = header.pop("SeriesInstanceUID", stack.series_uid)
    study.RTReferencedSeriesSequence = [series]
    frame_of_reference.FrameOfReferenceUID = header.pop("FrameOfReferenceUID", stack.frame_of_reference_uid)
    frame_of_reference.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame_of_reference]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    to_lps = np.diag([-1, -1, 1, 1]) @ stack.affine
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = frame_of_reference.FrameOfReferenceUID
        item.ReferencedROINumber = number
        item.ContourSequence = [build_contour(to_lps, index, corners) for index, corners in contours]
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(item)
    return dataset


def build_contour(to_lps: np.ndarray, index: float, corners: list[tuple[float, float]]) -> Dataset:
    points = np.array([(column, row, index, 1) for column, row in corners]) @ to_lps.T
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(corners)
    contour.ContourData = [f"{value:.4f}" for value in points[:, :3].ravel()]
    return contour


BOX = [(1.5, 0.5), (5.5, 0.5), (5.5, 4.5), (1.5, 4.5)]  # columns 2 to 5, rows 1 to 4
SMALL = [(2.5, 1.5), (4.5, 1.5), (4.5, 3.5), (2.5, 3.5)]  # columns 3 and 4, rows 2 and 3
EVERYWHERE = [(n, BOX) for n in range(SHAPE[2])]


def expect(*slices: int, is_ring: bool = False) -> np.ndarray:
    """`BOX` on some slices, less `SMALL` for a ring."""
    mask = np.zeros(SHAPE, dtype=bool)
    for k in slices:
        mask[2:6, 1:5, k] = True
        if is_ring:
            mask[3:5, 2:4, k] = False
    return mask


def test_contours_of_another_system_fill_the_slices_on_which_they_lie(messages: Callable[[], str]) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX), (3, BOX), (3, SMALL)]})
    check_same(read_rtstruct(dataset, stack), {"GTV": expect(2) | expect(3, is_ring=True)})
    assert messages() == ""


def test_a_file_in_a_zip_is_read_as_well(tmp_path: Path) -> None:
    stack = make_stack()
    content = encode_rtstruct(make_structures(stack, **make_masks()), stack, **ALGORITHM)
    check_same(read_rtstruct(DicomFile(tmp_path / "a.zip", member="rs.dcm", content=content), stack), make_masks())


@pytest.mark.parametrize("is_implicit", [True, False])
def test_contours_too_long_for_an_explicit_length_are_read(is_implicit: bool) -> None:
    """Explicit VR has 16 bits for the length of a decimal string; writers fall back to VR UN."""
    stack = make_stack()
    side = np.concatenate([np.linspace(a, b, 900, endpoint=False) for a, b in zip(BOX, BOX[1:] + BOX[:1], strict=True)])
    dataset = build_rtstruct(stack, {"GTV": [(2, [tuple(point) for point in side])]})
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*changed from 'DS' to 'UN'")
        pydicom.dcmwrite(buffer, dataset, implicit_vr=is_implicit, little_endian=True)
    assert len(buffer.getvalue()) > 66000
    read = read_rtstruct(pydicom.dcmread(io.BytesIO(buffer.getvalue()), force=True), stack)
    check_same(read, {"GTV": expect(2)})


def test_names_choose_structures() -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)], "CTV": [(3, BOX)], "bladder": []})
    check_same(read_rtstruct(dataset, stack, names=["bladder", "CTV"]), {"CTV": expect(3), "bladder": expect()})
    with pytest.raises(LabelError, match="no ROI named 'ctv'; it has 'GTV', 'CTV', 'bladder'"):
        read_rtstruct(dataset, stack, names=["ctv"])


def test_rois_are_listed_with_the_number_of_their_contours() -> None:
    dataset = build_rtstruct(make_stack(), {"GTV": [(2, BOX), (3, BOX)], "bladder": []})
    assert list_rois(dataset) == [RoiInfo(1, "GTV", 2), RoiInfo(2, "bladder", 0)]


def test_the_same_name_twice_gets_the_number(messages: Callable[[], str]) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"a": [(2, BOX)], "b": [(3, BOX)], "c": [], "d": [(4, BOX)], "e": []})
    for item, name in zip(dataset.StructureSetROISequence, ["GTV", "GTV", "GTV (2)", "", "CTV"], strict=True):
        item.ROIName = name
    expected = {
        "GTV (1)": expect(2),
        "GTV (2) (2)": expect(3),
        "GTV (2)": expect(),
        "ROI 4": expect(4),
        "CTV": expect(),
    }
    check_same(read_rtstruct(dataset, stack), expected)
    assert "'GTV (1)', 'GTV (2) (2)', 'ROI 4'" in messages()
    assert [roi.name for roi in list_rois(dataset)] == list(expected)
    check_same(
        read_rtstruct(dataset, stack, names=["GTV"]), {name: expected[name] for name in ("GTV (1)", "GTV (2) (2)")}
    )


def test_points_and_open_contours_are_left_out_and_named(messages: Callable[[], str]) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"urethra": [(2, BOX), (3, BOX), (4, SMALL[:1])]})
    contours = dataset.ROIContourSequence[0].ContourSequence
    contours[1].ContourGeometricType, contours[2].ContourGeometricType = "OPEN_PLANAR", "POINT"
    check_same(read_rtstruct(dataset, stack), {"urethra": expect(2)})
    assert "ROI 'urethra': 2 contour(s) are points or open lines" in messages()


def test_a_structure_without_contours_stays_listed(messages: Callable[[], str]) -> None:
    stack = make_stack()
    dataset = build_rtstruct(
        stack, {"empty": [], "tiny": [(2, [(3.1, 3.1), (3.4, 3.1), (3.1, 3.4)])], "GTV": [(2, BOX)]}
    )
    del dataset.ROIContourSequence[0]
    check_same(read_rtstruct(dataset, stack), {"empty": expect(), "tiny": expect(), "GTV": expect(2)})
    assert "ROI 'empty': it has no voxel" in messages()
    assert "ROI 'tiny': it has no voxel" in messages()


def test_contours_beyond_the_slices_are_left_out_and_counted(messages: Callable[[], str]) -> None:
    stack = make_stack()
    contours = [(n, BOX) for n in (-3, -2, -1, -0.45, 1, 2, 3, 4, 5, 5.55, 6)]
    check_same(read_rtstruct(build_rtstruct(stack, {"BODY": contours}), stack), {"BODY": expect(0, 1, 2, 3, 4, 5)})
    assert "ROI 'BODY': 5 contour(s) lie beyond the slices" in messages()
    assert "up to 1.13 mm from their slices" in messages()


def test_contours_in_a_gap_are_left_out(messages: Callable[[], str]) -> None:
    """The middle of a gap is no place for the contour of a slice that is missing."""
    stack = make_stack(positions=[0, 2, 4, 8, 10, 12])
    whole = make_stack((11, 7, 7), (0.8, 1.3, 2.0))
    mask = read_rtstruct(build_rtstruct(whole, {"GTV": [(n, BOX) for n in range(7)]}), stack)
    frames = stack.labels_to_frames(mask.get_mask(mask.structures[0]))
    assert frames.any(axis=(1, 2)).tolist() == [True] * 6
    assert "ROI 'GTV': 1 contour(s) lie beyond the slices or in a gap" in messages()


def test_contours_of_a_denser_series_do_not_cancel_each_other(messages: Callable[[], str]) -> None:
    stack = make_stack()
    contours = [(n / 4, BOX) for n in range(21)]
    check_same(read_rtstruct(build_rtstruct(stack, {"GTV": contours}), stack), {"GTV": expect(*range(6))})
    assert "15 contour(s) lie between slices" in messages()


def test_contours_half_way_between_slices_all_go_to_the_same_side() -> None:
    stack = make_stack()  # oblique: four decimals put each contour a little off the middle
    contours = [(n + 0.5, BOX) for n in range(5)]
    check_same(read_rtstruct(build_rtstruct(stack, {"GTV": contours}), stack), {"GTV": expect(*range(5))})


def test_slices_that_were_skipped_are_named(messages: Callable[[], str]) -> None:
    stack = make_stack()
    check_same(read_rtstruct(build_rtstruct(stack, {"GTV": [(1, BOX), (4, BOX)]}), stack), {"GTV": expect(1, 4)})
    assert "ROI 'GTV': 2 slice(s) between its first and last are empty" in messages()


def test_contours_beyond_the_border_of_the_image_are_cut_off_and_counted(messages: Callable[[], str]) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"BODY": [(2, [(-9, -9), (40, -9), (40, 40), (-9, 40)])]})
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :, 2] = True
    check_same(read_rtstruct(dataset, stack), {"BODY": mask})
    assert "ROI 'BODY': 1 contour(s) reach beyond the image" in messages()


@pytest.mark.parametrize("angle_degrees", [90.0, 8.0])
def test_contours_that_are_not_parallel_to_the_slices_are_refused(angle_degrees: float) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)], "sagittal": [(2, BOX)]})
    contour = dataset.ROIContourSequence[1].ContourSequence[0]
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    axis, normal = stack.frames[0].plane[:3, 0] / stack.frames[0].spacing[0], stack.frames[0].normal
    angle, middle = math.radians(angle_degrees), points.mean(axis=0)
    across = np.cross(normal, axis)
    height = (points - middle) @ across
    turned = points + np.outer(height, across * (math.cos(angle) - 1) + normal * math.sin(angle))
    contour.ContourData = [f"{value:.3f}" for value in turned.ravel()]
    with pytest.raises(VolumeError, match="ROI 'sagittal' has a contour that is not parallel to the slices"):
        read_rtstruct(dataset, stack)
    check_same(read_rtstruct(dataset, stack, names=["GTV"]), {"GTV": expect(2)})


def test_coordinates_with_one_decimal_are_parallel_enough() -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": EVERYWHERE})
    for contour in list_contours(dataset):
        contour.ContourData = [f"{float(value):.1f}" for value in contour.ContourData]
    check_same(read_rtstruct(dataset, stack), {"GTV": expect(*range(6))})


# ---- whose contours --------------------------------------------------------------------------------------------------


def test_row_46_another_frame_of_reference_is_refused() -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)]}, FrameOfReferenceUID="9.9.9")
    with pytest.raises(GeometryError, match=r"ROI 'GTV' lies in another frame of reference.*CT000\.dcm") as caught:
        read_rtstruct(dataset, stack)
    assert "9.9.9" not in str(caught.value)


def test_another_series_of_the_same_frame_of_reference_is_used_and_said(messages: Callable[[], str]) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)]}, SeriesInstanceUID="9.9.9")
    check_same(read_rtstruct(dataset, stack), {"GTV": expect(2)})
    assert "was drawn on another series" in messages()


def test_contours_that_nothing_ties_to_the_series_are_refused() -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)]}, SeriesInstanceUID="9.9.9")
    del dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    del dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    with pytest.raises(GeometryError, match="nothing says that ROI 'GTV' belongs"):
        read_rtstruct(dataset, stack)
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.SeriesInstanceUID = stack.series_uid
    check_same(read_rtstruct(dataset, stack), {"GTV": expect(2)})


def test_the_referenced_series_is_none_where_the_file_names_none() -> None:
    dataset = build_rtstruct(make_stack(), {"GTV": []})
    assert find_referenced_series_uid(dataset) == "1.2.3.2"
    del dataset.ReferencedFrameOfReferenceSequence
    assert find_referenced_series_uid(dataset) is None


# ---- damage ----------------------------------------------------------------------------------------------------------


def set_raw(contour: Dataset, data: bytes) -> None:
    """Coordinates as a file may hold them, unchecked."""
    contour[0x30060050] = RawDataElement(Tag(0x30060050), "DS", len(data), data, 0, True, True)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"1\\2\\3\\4", "4 coordinates; expected three for each point"),
        (b"", "0 coordinates"),
        (b"1\\2\\nan\\4\\5\\6\\7\\8\\9", "NaN or infinity"),
        (b"1\\2\\-inf\\4\\5\\6\\7\\8\\9", "NaN or infinity"),
        (b"1\\2\\CANARY\\4\\5\\6\\7\\8\\9", "text among its coordinates"),
        (b"1\\2\\\\4\\5\\6\\7\\8\\9", "text among its coordinates"),
        (b"1\\2\\3\\4\\5\\6\\7\\8\\9", "3 points that claims to have 4"),
    ],
)
def test_row_19_coordinates_that_are_no_numbers_are_refused(data: bytes, match: str, tmp_path: Path) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)], "broken": [(2, BOX)]})
    set_raw(dataset.ROIContourSequence[1].ContourSequence[0], data)
    dataset.filename = str(tmp_path / "rs.dcm")
    with pytest.raises(VolumeError, match=match) as caught:
        read_rtstruct(dataset, stack)
    assert "rs.dcm: ROI number 2 ('broken')" in str(caught.value)
    assert "CANARY" not in str(caught.value)
    assert "\n" not in str(caught.value)
    check_same(read_rtstruct(dataset, stack, names=["GTV"]), {"GTV": expect(2)})


def test_row_20_decimal_strings_of_more_than_16_characters_are_read() -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)]})
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    set_raw(contour, "\\".join(f" {float(value):.20f} " for value in contour.ContourData).encode())
    check_same(read_rtstruct(dataset, stack), {"GTV": expect(2)})


def test_row_18_a_file_that_was_cut_is_never_read_in_part(tmp_path: Path) -> None:
    """Wherever it ends: an error, or the whole mask where only what follows the contours is missing.

    pydicom takes a file for complete that ends between two items or elements, so these places are tried first.
    """
    stack = make_stack()
    masks = {name: mask for name, mask in make_masks().items() if name in ("ring", "dot", "empty")}
    content = encode_rtstruct(make_structures(stack, **masks), stack, **ALGORITHM)
    items, sequences = (
        [match.start() for match in re.finditer(pattern, content)]
        for pattern in (b"\xfe\xff\x00\xe0", b"\x06\x30[\x20\x39\x80]\x00")
    )
    borders = [border + shift for border in items[-20:] + sequences for shift in (0, 1, 7)]
    path, refusals = tmp_path / "rs.dcm", []
    for length in [0, 3, 131, 132, 140, *borders, *np.random.default_rng(0).integers(0, len(content), 30).tolist()]:
        path.write_bytes(content[:length])
        try:
            check_same(read_rtstruct(path, stack), masks)
        except VolumeError as error:
            refusals.append(str(error))
    assert len(refusals) > 60
    assert all(str(path) in refusal and "\n" not in refusal for refusal in refusals)


def break_number(dataset: Dataset) -> None:
    del dataset.StructureSetROISequence[0].ROINumber


def break_double(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[1].ROINumber = 1


def break_orphan(dataset: Dataset) -> None:
    dataset.ROIContourSequence[1].ReferencedROINumber = 7


def break_list(dataset: Dataset) -> None:
    del dataset.StructureSetROISequence


def break_class(dataset: Dataset) -> None:
    dataset.SOPClassUID = CTImageStorage


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (break_number, "damaged RT structure set"),
        (break_double, "ROI number 1 twice"),
        (break_orphan, "contours of ROI number 7, which it does not list"),
        (break_list, "lists no ROI"),
        (break_class, "another kind"),
    ],
)
def test_damaged_structure_sets_are_refused(damage: Callable[[Dataset], None], match: str) -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"GTV": [(2, BOX)], "CTV": [(3, BOX)]})
    damage(dataset)
    with pytest.raises(VolumeError, match=match):
        read_rtstruct(dataset, stack)
    with pytest.raises(VolumeError, match=match):
        list_rois(dataset)


def test_what_is_no_file_or_no_dicom_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.dcm"
    page.write_text("<html>not found</html>")
    for path, match in [(page, "no DICOM file"), (tmp_path, "not a file"), (tmp_path / "gone.dcm", "not a file")]:
        with pytest.raises(VolumeError, match=match):
            read_rtstruct(path, make_stack())


def test_a_colour_that_is_none_is_passed_over() -> None:
    stack = make_stack()
    dataset = build_rtstruct(stack, {"a": [(2, BOX)], "b": [(3, BOX)], "c": []})
    dataset.ROIContourSequence[0].ROIDisplayColor = [1, 2]
    dataset.ROIContourSequence[1].ROIDisplayColor = [300, 0, 0]
    dataset.ROIContourSequence[2].ROIDisplayColor = [9, 8, 7]
    colors = [structure.color for structure in read_rtstruct(dataset, stack).structures]
    assert colors[2] == (9, 8, 7)
    assert all(max(color) <= 255 and len(color) == 3 for color in colors)


# ---- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_contours_of_a_sarcoma_fill_to_the_published_masks(modality: str, real_data: Path, tmp_path: Path) -> None:
    """IBSI: 117145, 117145 and 5095 voxels, not one of them elsewhere; and again after writing and reading."""
    import nibabel as nib

    folder = real_data / "dicom" / "sarcoma-ct-mr-pet-rtstruct"
    stack = read_stack(folder / modality / "image")
    image = nib.load(folder / "nifti" / f"{modality}_mask.nii.gz")
    published = np.asanyarray(image.dataobj).astype(bool)
    read = read_rtstruct(folder / modality / "mask" / "RS.dcm", stack)
    assert np.abs(image.affine - stack.affine).max() < 1e-3
    (gtv,) = read.structures
    assert (gtv.name, gtv.color) == (f"GTV_Mass_{modality}", (255, 0, 0))
    assert np.array_equal(read.get_mask(gtv), published)
    write_rtstruct(read, tmp_path / "rs.dcm", stack, **ALGORITHM)
    check_same(read_rtstruct(tmp_path / "rs.dcm", stack), {gtv.name: published})
