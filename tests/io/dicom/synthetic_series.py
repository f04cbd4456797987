"""DICOM series whose stored values encode the world position: a geometry error shows at every voxel.

`build_series` gives single-frame CT, MR or PET, `build_enhanced` the same slices in one multi-frame file. Both give
a `Series`: the data sets, which tests then damage, and for each slice its plane and intensities, which are the truth.
`check_exact` compares a `Volume` with them voxel by voxel, wherever its axes point; `check_linear` compares resampled
grids, which is exact too, because the intensities are linear in space. Planes are LPS here as in DICOM; the field and
all that is compared is RAS.
"""

from __future__ import annotations

import copy
import itertools
import re
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from medunet.errors import MedunetError
from medunet.io.scan import ReadOptions, Scan
from medunet.volume import Volume

CANARIES = ("CANARY", "19010203", "4711-SECRET")
"""What no text may hold: parts of the patient's name, id, birth date and of what else names a person."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

GRADIENT = (9.7, -14.3, 21.1)
"""Intensity per mm along R, A and S: no flip, swap or shift of axes maps it onto itself."""

SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
ENHANCED_CLASSES = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}

_counter = itertools.count(1)


def new_uid() -> str:
    """A UID that no other call gives, the same in each run of the tests."""
    return generate_uid(entropy_srcs=["medunet-tests", str(next(_counter))])


# ---- geometry


def rotation(*angles_degrees: float) -> np.ndarray:
    """Rotation about x, then y, then z; its columns are the directions of columns, rows and normal."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_degrees)):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def plane_directions(along_row: Sequence[float], along_column: Sequence[float]) -> np.ndarray:
    """Directions as columns of a matrix, from the two triples of ImageOrientationPatient."""
    return np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1).astype(float)


AXIAL = plane_directions((1, 0, 0), (0, 1, 0))
ORIENTATIONS: dict[str, np.ndarray] = {
    "axial": AXIAL,
    "axial-feet-first": plane_directions((-1, 0, 0), (0, 1, 0)),
    "axial-prone": plane_directions((-1, 0, 0), (0, -1, 0)),
    "sagittal": plane_directions((0, 1, 0), (0, 0, -1)),
    "sagittal-mirrored": plane_directions((0, -1, 0), (0, 0, -1)),
    "coronal": plane_directions((1, 0, 0), (0, 0, -1)),
    "coronal-head-down": plane_directions((-1, 0, 0), (0, 0, 1)),
    "oblique": rotation(18.0, -7.0, 4.0),
    "double-oblique": rotation(31.0, 40.0, -22.0) @ plane_directions((0, 1, 0), (0, 0, -1)),
    "at-45-degrees": rotation(45.0, 0.0, 45.0),
}
OBLIQUE = ORIENTATIONS["double-oblique"]


@dataclass(frozen=True)
class Field:
    """Intensity as a linear function of the position in RAS mm."""

    anchor: np.ndarray
    gradient: tuple[float, float, float] = GRADIENT
    offset: float = 300.0

    def __call__(self, ras_points: np.ndarray) -> np.ndarray:
        """Intensities at points ``(..., 3)``."""
        return (np.asarray(ras_points) - self.anchor) @ np.asarray(self.gradient) + self.offset


@dataclass(eq=False)
class Slice:
    """The truth of one slice.

    Attributes:
        plane: ``(column, row, 0, 1)`` -> LPS mm.
        values: Intensities after rescaling, ``(rows, columns)``.
        tolerance: How far ``values`` may lie from the field by rounding to stored integers.
        name: Name of its file.
    """

    plane: np.ndarray
    values: np.ndarray
    tolerance: float
    name: str = ""

    @property
    def ras_points(self) -> np.ndarray:
        """Centres of the pixels, ``(rows, columns, 3)``."""
        rows, columns = self.values.shape
        row, column = np.mgrid[:rows, :columns]
        points = np.stack([column, row, np.zeros_like(row), np.ones_like(row)], axis=-1)
        return (points @ (LPS_TO_RAS @ self.plane).T)[..., :3]


@dataclass(eq=False)
class Series:
    """Data sets and their truth; ``datasets[k]`` belongs to ``slices[k]`` unless the series is enhanced.

    Attributes:
        datasets: Rising along the normal; tests change and delete them.
        slices: The truth, rising along the normal.
        field: What the intensities follow.
        affine: ``(column, row, slice)`` -> RAS mm, sheared where the series is tilted.
        names: File names of ``datasets``.
    """

    datasets: list[Dataset]
    slices: list[Slice]
    field: Field
    affine: np.ndarray
    names: list[str] = field(default_factory=list)

    def write(self, folder: Path, **options: Any) -> Path:
        """Write one file per data set; gives back the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for dataset, name in zip(self.datasets, self.names, strict=True):
            write_file(dataset, folder / name, **options)
        return folder

    def drop(self, *indices: int) -> Series:
        """Leave slices out."""
        for index in sorted(indices, reverse=True):
            del self.datasets[index], self.slices[index], self.names[index]
        return self

    def add(self, dataset: Dataset, truth: Slice) -> None:
        """Append one more file."""
        self.datasets.append(dataset)
        self.slices.append(truth)
        self.names.append(truth.name)


# ---- building


def build_series(
    modality: str = "CT",
    *,
    shape: tuple[int, int, int] = (7, 9, 8),
    spacing: tuple[float, float, float] = (0.8, 1.3, 2.5),
    directions: np.ndarray = OBLIQUE,
    origin: tuple[float, float, float] = (-31.0, 12.5, -140.25),
    positions: Sequence[float] | None = None,
    tilt_degrees: float = 0.0,
    tilt_along: str = "columns",
    slope: float | Callable[[int], float] = 1.0,
    intercept: float | Callable[[int], float] | None = None,
    is_signed: bool | Callable[[int], bool] = False,
    bits: int | Callable[[int], int] = 16,
    bits_allocated: int = 16,
    junk: int = 0,
    offset: float = 300.0,
    gradient: tuple[float, float, float] = GRADIENT,
    number: int = 3,
    description: str = "synthetic",
    numbering: str = "rising",
    prefix: str = "IM",
    suffix: str = ".dcm",
    like: Series | None = None,
) -> Series:
    """A conformant single-frame series.

    Args:
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        shape: Rows, columns, slices; ``positions`` gives the number of slices where there are any.
        spacing: From row to row, from column to column, from slice to slice along the normal, in mm.
        directions: Directions of columns, rows and normal in LPS, as columns of a matrix.
        origin: Centre of the first pixel of the first slice, LPS mm.
        positions: Of the slices along the normal, in mm; even steps if None.
        tilt_degrees: Angle between the normal and the path of the slices.
        tilt_along: Whether the slices move along ``"columns"`` (as gantries tilt) or ``"rows"``.
        slope: RescaleSlope, or a function of the slice.
        intercept: RescaleIntercept, or a function of the slice; -1024 for CT and 0 otherwise if None.
        is_signed: PixelRepresentation.
        bits: BitsStored.
        bits_allocated: 8, 16 or 32.
        junk: Put into the bits above ``bits``.
        offset: Intensity at the centre of the grid.
        gradient: Intensity per mm along R, A, S.
        number: SeriesNumber.
        description: SeriesDescription.
        numbering: InstanceNumber ``"rising"``, ``"reversed"``, ``"interleaved"`` or ``"shuffled"`` along the normal.
        prefix: Of the file names.
        suffix: Of the file names.
        like: Take patient, study, frame of reference and field from this series.
    """
    rows, columns, count = shape if positions is None else (*shape[:2], len(positions))
    if intercept is None:
        intercept = -1024.0 if modality == "CT" else 0.0
    heights = np.arange(count) * spacing[2] if positions is None else np.asarray(positions, dtype=float)
    planes = _build_planes(heights, spacing, directions, origin, tilt_degrees, tilt_along)
    step = np.diff(heights).mean() if count > 1 else spacing[2]
    affine = LPS_TO_RAS @ planes[0]
    affine[:3, 2] = _path(directions, tilt_degrees, tilt_along) * step * (-1, -1, 1)
    centre = affine @ [(columns - 1) / 2, (rows - 1) / 2, (count - 1) / 2, 1]
    law = Field(centre[:3], gradient, offset)
    if like is not None:
        law = Field(like.field.anchor, like.field.gradient, offset)
    common = _build_common(modality, number, description, like)
    numbers = _number(count, numbering)
    order = np.random.default_rng(count).permutation(count)
    series = Series([], [], law, affine)
    for k in range(count):
        values = [value(k) if callable(value) else value for value in (slope, intercept, is_signed, bits)]
        truth = Slice(planes[k], np.zeros((rows, columns)), 0.0, f"{prefix}{order[k] + 1:04d}{suffix}")
        dataset = _clone(common)
        dataset.SOPInstanceUID = new_uid()
        dataset.InstanceNumber = str(numbers[k])
        dataset.ImagePositionPatient = to_ds(planes[k][:3, 3])
        dataset.ImageOrientationPatient = to_ds([*directions[:, 0], *directions[:, 1]])
        dataset.PixelSpacing = to_ds(spacing[:2])
        dataset.SliceThickness = to_ds([spacing[2] * 2])[0]  # overlapping slices: thickness is not spacing
        set_pixels(dataset, truth, law, *values, bits_allocated=bits_allocated, junk=junk)
        series.add(dataset, truth)
    return series


def _build_planes(
    heights: np.ndarray,
    spacing: tuple[float, float, float],
    directions: np.ndarray,
    origin: Sequence[float],
    tilt_degrees: float,
    tilt_along: str,
) -> list[np.ndarray]:
    path = _path(directions, tilt_degrees, tilt_along)
    planes = []
    for height in heights:
        plane = np.eye(4)
        plane[:3, :3] = directions * (spacing[1], spacing[0], 1.0)
        plane[:3, 3] = np.asarray(origin) + height * path
        planes.append(plane)
    return planes


def _path(directions: np.ndarray, tilt_degrees: float, tilt_along: str) -> np.ndarray:
    """From slice to slice, per mm along the normal."""
    sideways = directions[:, 1] if tilt_along == "columns" else directions[:, 0]
    return np.asarray(directions[:, 2] + np.tan(np.deg2rad(tilt_degrees)) * sideways)


def _number(count: int, numbering: str) -> list[int]:
    rising = list(range(1, count + 1))
    if numbering == "reversed":
        return rising[::-1]
    if numbering == "interleaved":  # odd slices first, as MR measures them
        half = (count + 1) // 2
        return [k // 2 + 1 if k % 2 == 0 else half + k // 2 + 1 for k in range(count)]
    if numbering == "shuffled":
        return [int(n) + 1 for n in np.random.default_rng(5).permutation(count)]
    return rising


def to_ds(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM wants them."""
    return [format_number_as_ds(float(value)) for value in values]


def _build_common(modality: str, number: int, description: str, like: Series | None) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = SOP_CLASSES[modality]
    dataset.Modality = modality
    dataset.SeriesInstanceUID = new_uid()
    dataset.SeriesNumber = str(number)
    dataset.SeriesDescription = description
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.FrameOfReferenceUID = new_uid() if like is None else like.datasets[0].FrameOfReferenceUID
    dataset.StudyInstanceUID = new_uid() if like is None else like.datasets[0].StudyInstanceUID
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.AcquisitionNumber = "1"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240517"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101500"
    dataset.StudyID = "1"
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = "HFS"
    add_patient(dataset)
    if modality == "CT":
        dataset.KVP = "120"
        dataset.RescaleType = "HU"
    if modality == "MR":
        dataset.ScanningSequence, dataset.SequenceVariant = "SE", "NONE"
        dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
        dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = "90", "4500", "8"
    if modality == "PT":
        dataset.Units, dataset.SeriesType = "BQML", ["WHOLE BODY", "IMAGE"]
        dataset.DecayCorrection, dataset.CorrectedImage = "START", ["DECY", "ATTN"]
    return dataset


def _clone(flat: Dataset) -> Dataset:
    """A copy of a data set without sequences; a tenth of the time of a deep copy."""
    clone = Dataset()
    for element in flat:
        clone[element.tag] = copy.copy(element)
    return clone


def add_patient(dataset: Dataset) -> Dataset:
    """Give it the patient whose traces are looked for in every text."""
    dataset.PatientName = "CANARY^PATIENT"
    dataset.PatientID = "4711-SECRET"
    dataset.PatientBirthDate = "19010203"
    dataset.PatientSex = "O"
    dataset.OtherPatientIDs = "CANARY-OTHER"
    dataset.PatientAddress = "CANARY ROAD 1"
    dataset.PatientComments = "CANARY COMMENT"
    dataset.ReferringPhysicianName = "CANARY^DOCTOR"
    dataset.InstitutionName = "CANARY HOSPITAL"
    dataset.AccessionNumber = "CANARYACC"
    return dataset


def set_pixels(
    dataset: Dataset,
    truth: Slice,
    law: Callable[[np.ndarray], np.ndarray],
    slope: float = 1.0,
    intercept: float = 0.0,
    is_signed: bool = False,
    bits: int = 16,
    *,
    bits_allocated: int = 16,
    junk: int = 0,
) -> None:
    """Store the field at the plane of ``truth``; ``truth`` then holds what a right reader gives."""
    stored = np.rint((law(truth.ras_points) - intercept) / slope).astype(np.int64)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    assert low <= stored.min() <= stored.max() <= high, "the field does not fit into the bits of this fixture"
    truth.values = stored * slope + intercept
    truth.tolerance = abs(slope) / 2 + 1e-3
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits_allocated, bits, bits - 1
    dataset.PixelRepresentation = int(is_signed)
    if dataset.Modality != "MR" or (slope, intercept) != (1.0, 0.0):
        dataset.RescaleSlope, dataset.RescaleIntercept = to_ds([slope, intercept])
    dataset.PixelData = pack(stored, bits, bits_allocated, junk)
    dataset["PixelData"].VR = "OW" if bits_allocated > 8 else "OB"


def pack(stored: np.ndarray, bits: int, bits_allocated: int, junk: int = 0) -> bytes:
    """Stored values as little-endian bytes of even length, with junk above the stored bits."""
    words = (stored.astype(np.int64) & (2**bits - 1)) | (junk << bits)
    data = (words & (2**bits_allocated - 1)).astype(f"<u{bits_allocated // 8}").tobytes()
    return data + b"\0" * (len(data) % 2)


def build_enhanced(
    modality: str = "CT",
    *,
    order: Sequence[int] | None = None,
    rescale: str = "shared",
    volumes: int = 1,
    volume_key: str = "b-value",
    **options: Any,
) -> Series:
    """The same slices as frames of one enhanced file.

    Args:
        modality: ``"CT"`` or ``"MR"``.
        order: Which slice each frame shows; rising if None. Slices that are left out are missing.
        rescale: Slope and intercept in the ``"shared"`` group or ``"per-frame"``.
        volumes: Number of volumes at the same places; volume ``v`` lies 100 higher.
        volume_key: What tells them apart: ``"b-value"``, ``"temporal"`` or ``"stack"``.
        options: As `build_series`.
    """
    parts = [build_series(modality, **{"offset": 300.0 + 100 * v, **options}) for v in range(volumes)]
    single = parts[0]
    order = list(range(len(single.slices))) if order is None else list(order)
    frames = [(v, k) for k in order for v in range(volumes)]
    dataset = copy.deepcopy(single.datasets[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del dataset[keyword]
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "AcquisitionNumber", "EchoTime"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.SOPClassUID = ENHANCED_CLASSES[modality]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.AcquisitionDateTime, dataset.AcquisitionDuration = "20240517101500", 1.0
    dataset.VolumetricProperties, dataset.PresentationLUTShape = "VOLUME", "IDENTITY"
    dataset.NumberOfFrames = str(len(frames))
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=new_uid())]
    dataset.SharedFunctionalGroupsSequence = [_build_shared(single.datasets[0], modality, rescale)]
    dataset.PerFrameFunctionalGroupsSequence = [
        _build_frame_group(parts[v].datasets[k], modality, rescale, (v, k), volumes, volume_key) for v, k in frames
    ]
    dataset.PixelData = b"".join(parts[v].datasets[k].PixelData for v, k in frames)
    slices = [parts[v].slices[k] for v in range(volumes) for k in sorted(set(order))]
    for truth in slices:
        truth.name = "enhanced.dcm"
    return Series([dataset], slices, single.field, single.affine, ["enhanced.dcm"])


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _build_shared(source: Dataset, modality: str, rescale: str) -> Dataset:
    shared = _item(
        PixelMeasuresSequence=[_item(PixelSpacing=source.PixelSpacing, SliceThickness=source.SliceThickness)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=source.ImageOrientationPatient)],
        FrameVOILUTSequence=[_item(WindowCenter="40", WindowWidth="400")],
    )
    if rescale == "shared":
        shared.PixelValueTransformationSequence = [_build_rescale(source)]
    frame_type = _item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    setattr(shared, f"{modality}ImageFrameTypeSequence", [frame_type])
    return shared


def _build_rescale(source: Dataset) -> Dataset:
    return _item(
        RescaleSlope=source.get("RescaleSlope", "1"),
        RescaleIntercept=source.get("RescaleIntercept", "0"),
        RescaleType="HU" if source.Modality == "CT" else "US",
    )


def _build_frame_group(
    source: Dataset, modality: str, rescale: str, place: tuple[int, int], volumes: int, volume_key: str
) -> Dataset:
    v, k = place
    content = _item(StackID="1", InStackPositionNumber=k + 1, FrameAcquisitionNumber=1)
    group = _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=source.ImagePositionPatient)],
    )
    if rescale == "per-frame":
        group.PixelValueTransformationSequence = [_build_rescale(source)]
    if volumes > 1 and volume_key == "b-value":
        diffusion = _item(DiffusionBValue=1000.0 * v, DiffusionDirectionality="ISOTROPIC" if v else "NONE")
        group.MRDiffusionSequence = [diffusion]
    if volumes > 1 and volume_key == "temporal":
        content.TemporalPositionIndex = v + 1
    if volumes > 1 and volume_key == "stack":
        content.StackID = str(v + 1)
    return group


def build_localizer(series: Series, *, shape: tuple[int, int] = (11, 13), name: str = "IM0099.dcm") -> Slice:
    """Append a localizer, which crosses the slices at a right angle, to a series; gives back its truth."""
    plane = series.slices[0].plane.copy()
    plane[:3, :3] = plane[:3, [1, 2, 0]] * (1.0, 1.5, 1.0)
    plane[:3, 2] = np.cross(plane[:3, 0], plane[:3, 1])
    plane[:3, 2] /= np.linalg.norm(plane[:3, 2])
    dataset = copy.deepcopy(series.datasets[0])
    dataset.SOPInstanceUID, dataset.InstanceNumber = new_uid(), "99"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    spacing = np.linalg.norm(plane[:3, :2], axis=0)
    dataset.ImagePositionPatient = to_ds(plane[:3, 3])
    dataset.ImageOrientationPatient = to_ds([*(plane[:3, 0] / spacing[0]), *(plane[:3, 1] / spacing[1])])
    dataset.PixelSpacing = to_ds([spacing[1], spacing[0]])
    truth = Slice(plane, np.zeros(shape), 0.0, name)
    set_pixels(dataset, truth, series.field, 1.0, -1024.0)
    series.datasets.append(dataset)
    series.names.append(name)
    return truth


def make_twin(dataset: Dataset, truth: Slice, *, change: float = 0.0, name: str) -> tuple[Dataset, Slice]:
    """Another image at the same place, ``change`` brighter (in stored units)."""
    twin, other = copy.deepcopy(dataset), copy.deepcopy(truth)
    twin.SOPInstanceUID = new_uid()
    kind = f"<{'i' if twin.PixelRepresentation else 'u'}{twin.BitsAllocated // 8}"
    twin.PixelData = (np.frombuffer(twin.PixelData, kind) + np.array(change, kind)).astype(kind).tobytes()
    twin["PixelData"].VR = "OW"
    other.values = truth.values + change * float(dataset.get("RescaleSlope", 1))
    other.name = name
    return twin, other


# ---- writing


def write_file(
    dataset: Dataset,
    path: Path,
    *,
    syntax: str = ExplicitVRLittleEndian,
    is_part10: bool = True,
    encoding_plugin: str = "",
) -> Path:
    """Write one file in a transfer syntax; without preamble and file meta information if not ``is_part10``."""
    uid = pydicom.uid.UID(syntax)
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset = copy.deepcopy(dataset)  # its pixels will be changed
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid if not uid.is_compressed or uid.is_deflated else ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if uid.is_compressed and not uid.is_deflated:
        dataset.compress(uid, encoding_plugin=encoding_plugin, generate_instance_uid=False)
    if uid == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        # pydicom writes OW as it finds it.
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
        dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values against the standard are what some tests are about
        if is_part10:
            dataset.save_as(path, enforce_file_format=True)
        else:
            implicit, little = uid.is_implicit_VR, uid.is_little_endian
            del dataset.file_meta
            dataset.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
            return path
    del dataset.file_meta
    return path


def set_raw(dataset: Dataset, keyword: str, value: bytes, *, vr: str = "") -> None:
    """Put bytes into an attribute that pydicom would refuse to write; ``vr`` if not that of the dictionary."""
    tag = Tag(tag_for_keyword(keyword))
    value += b" " * (len(value) % 2)
    dataset[tag] = RawDataElement(tag, vr or dictionary_VR(tag), len(value), value, 0, False, True)


def zip_folder(folder: Path, path: Path) -> Path:
    """All files of a folder in one archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def write_dicomdir(series: Series, folder: Path) -> list[Path]:
    """The series as a file set, which names its files itself; gives back the path of each slice."""
    series.write(folder.parent / "plain")
    files = FileSet()
    uids = [files.add(folder.parent / "plain" / name).SOPInstanceUID for name in series.names]
    files.write(folder)
    written = FileSet(folder / "DICOMDIR")
    by_uid = {instance.SOPInstanceUID: Path(instance.path) for instance in written}
    for file_set in (files, written):
        file_set._stage["t"].cleanup()  # else a warning when the collector finds it
    return [by_uid[uid] for uid in uids]


def deflate_zeros(num_bytes: int, head: bytes = b"") -> bytes:
    """Raw deflate of ``head`` and zeros; a full flush makes each block the same bytes, so that none is done twice."""
    block = bytes(2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    first = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + first * (num_bytes // len(block)) + packer.flush(zlib.Z_FINISH)


# ---- other objects that lie beside a series


def build_secondary_capture(series: Series, *, is_rgb: bool = False, in_series: bool = True) -> Dataset:
    """A screenshot with the size of the slices, which says that it belongs to the series."""
    dataset = copy.deepcopy(series.datasets[len(series.datasets) // 2])
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = new_uid()
    dataset.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    dataset.ConversionType = "WSD"
    if not in_series:
        dataset.SeriesInstanceUID, dataset.SeriesNumber = new_uid(), "99"
    if is_rgb:
        make_rgb(dataset)
    return dataset


def make_rgb(dataset: Dataset) -> None:
    """Turn an image into a colour picture of the same size."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    num_bytes = dataset.Rows * dataset.Columns * 3
    dataset.PixelData = bytes(n % 251 for n in range(num_bytes)) + b"\0" * (num_bytes % 2)
    dataset["PixelData"].VR = "OB"
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if keyword in dataset:
            del dataset[keyword]


def build_without_pixels(series: Series, sop_class: str, modality: str, *, in_series: bool = True) -> Dataset:
    """A report, a presentation state or the like."""
    source = series.datasets[0]
    dataset = add_patient(Dataset())
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, new_uid(), modality
    dataset.StudyInstanceUID, dataset.StudyDate, dataset.StudyTime = source.StudyInstanceUID, "20240517", "101500"
    dataset.SeriesInstanceUID = source.SeriesInstanceUID if in_series else new_uid()
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.SeriesDescription = "77", "1", "no image"
    dataset.ContentDate, dataset.ContentTime = "20240517", "101500"
    return dataset


def build_segmentation(series: Series, *, in_series: bool = False) -> Dataset:
    """A DICOM SEG on the grid of a series: multi-frame, one bit, same size and places."""
    dataset = copy.deepcopy(build_enhanced("CT").datasets[0])
    source = series.datasets[0]
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.66.4", "SEG"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = source.StudyInstanceUID, source.FrameOfReferenceUID
    dataset.SeriesInstanceUID = source.SeriesInstanceUID if in_series else new_uid()
    dataset.ImageType, dataset.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 1, 1, 0, 0
    num_bits = int(dataset.NumberOfFrames) * dataset.Rows * dataset.Columns
    dataset.PixelData = b"\x5a" * (num_bits // 16 * 2 + 2)
    dataset["PixelData"].VR = "OB"
    return dataset


# ---- reading and checking


def read(path: Path, **options: Any) -> Scan:
    """Read a scan; its notes are single sentences without a trace of the patient."""
    from medunet.io import read_scan

    scan = read_scan(path, ReadOptions(**options))
    for note in scan.notes:
        assert_private(note)
        assert "\n" not in note, f"a note has several lines: {note!r}"
    return scan


def refuse(path: Path, *expected: str | re.Pattern[str], **options: Any) -> str:
    """Read what must be refused: one MedunetError of one line, private, with the expected parts; gives its text."""
    from medunet.io import read_scan

    with pytest.raises(MedunetError) as caught:
        read_scan(path, ReadOptions(**options))
    text = str(caught.value)
    assert text, "the error says nothing"
    assert "\n" not in text, f"the error has several lines: {text!r}"
    # The whole chain: whoever logs the traceback logs pydicom's texts, which quote raw values.
    assert_private("".join(traceback.format_exception(caught.value)))
    assert_mentions(text, *expected)
    return text


def assert_mentions(text: str, *expected: str | re.Pattern[str]) -> None:
    """Each string, in any case, and each pattern is found in the text."""
    for part in expected:
        if isinstance(part, str):
            part = re.compile(re.escape(part), re.IGNORECASE)
        assert part.search(text), f"{part.pattern!r} is not in: {text}"


def assert_private(text: str) -> None:
    """Nothing of the patient is in the text."""
    found = [canary for canary in CANARIES if canary.lower() in text.lower()]
    assert not found, f"{found} leaked into: {text}"


def find_note(scan: Scan, *expected: str | re.Pattern[str]) -> str:
    """The note that has all expected parts."""
    for note in scan.notes:
        try:
            assert_mentions(note, *expected)
        except AssertionError:
            continue
        return note
    msg = f"no note has all of {[getattr(part, 'pattern', part) for part in expected]}; notes: {list(scan.notes)}"
    raise AssertionError(msg)


def number(value: float) -> re.Pattern[str]:
    """The number as people may print it: 5, 5.0 or 5.00, but not 15 or 5.5."""
    return re.compile(rf"(?<![\d.]){re.escape(f'{value:g}')}{'0*' if value % 1 else '([.]0+)?'}(?![\d])(?![.]\d)")


def count_of(value: int) -> re.Pattern[str]:
    """A whole number that is no part of a longer one, a file name or a UID."""
    return re.compile(rf"(?<![\w.]){value}(?![\w.]*\d)")


ALLOW_GAPS = re.compile(r"allow[-_]gaps")
VOLUME_INDEX = re.compile(r"volume[-_]index")
SERIES_OPTION = re.compile(r"--series|\bseries=")


def check_exact(volume: Volume, slices: Sequence[Slice]) -> None:
    """Each pixel of the slices is one voxel of the volume, at its place to 0.01 mm and with its intensity."""
    from scipy.spatial import cKDTree

    points = np.concatenate([truth.ras_points.reshape(-1, 3) for truth in slices])
    values = np.concatenate([truth.values.reshape(-1) for truth in slices])
    centres = voxel_centres(volume).reshape(-1, 3)
    assert volume.num_channels == 1
    assert len(centres) == len(points), f"the volume has {len(centres)} voxels, the slices have {len(points)} pixels"
    distances, nearest = cKDTree(points).query(centres)
    assert distances.max() < 0.01, f"a voxel lies {distances.max():.3f} mm from the nearest pixel"
    assert len(set(nearest.tolist())) == len(points), "two voxels lie on one pixel"
    found = volume.array[0].reshape(-1).astype(np.float64)
    np.testing.assert_allclose(found, values[nearest], rtol=1e-6, atol=1e-3, err_msg="intensities")


def check_linear(
    volume: Volume, series: Series, *, tolerance: float | None = None, is_whole: bool = True
) -> np.ndarray:
    """Inside the field of view the volume follows the field; ``is_whole`` asks for a grid that covers all of it.

    Returns:
        ``(I, J, K)`` bool, True inside the field of view.
    """
    tolerance = max(truth.tolerance for truth in series.slices) + 0.02 if tolerance is None else tolerance
    tolerance += 0.5 if volume.array.dtype.kind in "iu" else 0.0
    centres = voxel_centres(volume)
    shape = np.array([*series.slices[0].values.shape[::-1], round(_extent(series)) + 1])
    index = (to_homogeneous(centres) @ np.linalg.inv(series.affine).T)[..., :3]
    is_inside = ((index > -1e-3) & (index < shape - 1 + 1e-3)).all(axis=-1)
    assert is_inside.sum() > 0.5 * len(series.slices) * series.slices[0].values.size, "hardly any voxel lies inside"
    errors = np.abs(volume.array[0].astype(np.float64) - series.field(centres))[is_inside]
    assert errors.max() <= tolerance, f"off by {errors.max():.3f}, tolerance {tolerance:.3f}"
    if is_whole:
        points = np.concatenate([truth.ras_points.reshape(-1, 3) for truth in series.slices])
        places = (to_homogeneous(points) @ np.linalg.inv(volume.affine).T)[..., :3]
        assert places.min() > -0.51, f"the grid starts {-places.min():.2f} voxels too late"
        assert (places.max(axis=0) < np.array(volume.spatial_shape) - 0.49).all(), "the grid ends too early"
    return np.asarray(is_inside)


def _extent(series: Series) -> float:
    """The last slice in steps of the series' affine."""
    last = LPS_TO_RAS @ series.slices[-1].plane @ [0, 0, 0, 1]
    return float((np.linalg.inv(series.affine) @ last)[2])


def check_rectangular(volume: Volume) -> None:
    """The axes of the grid are at right angles."""
    unit = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-6)


def voxel_centres(volume: Volume) -> np.ndarray:
    """RAS mm of each voxel, ``(I, J, K, 3)``."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.spatial_shape), indexing="ij"), axis=-1)
    return np.asarray((to_homogeneous(index) @ volume.affine.T)[..., :3])


def to_homogeneous(points: np.ndarray) -> np.ndarray:
    """Append a one."""
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


def check_stack(scan: Scan, folder: Path) -> None:
    """`labels_to_frames` puts each voxel of an unchanged grid onto its pixel of its file, and back."""
    assert scan.stack is not None
    labels = np.rint(scan.volume.array[0]).astype(np.int32)
    frames = scan.stack.labels_to_frames(labels)
    assert len(frames) == len(scan.stack.frames)
    for frame, found in zip(scan.stack.frames, frames, strict=True):
        dataset = pydicom.dcmread(folder / frame.file.path.name)
        pixels = dataset.pixel_array.reshape(-1, *frame.shape)[frame.index]
        assert frame.shape == pixels.shape
        expected = np.rint(pixels * frame.slope + frame.intercept).astype(np.int32)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scan.stack.labels_from_frames(frames), labels)
