"""`StructureSet` to RT structure sets (RTSTRUCT), which are written only after they were read back and compared.

The object is that of DICOM PS3.3 A.19. Outlines are traced on the original slices (`contours.trace_contours`), and
holes are closed contours of their own: a reader that fills all contours of a slice together by the even-odd rule gets
the very same voxels.
"""

from __future__ import annotations

import copy
import datetime
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medunet import __version__
from medunet.errors import OutputError, VolumeError
from medunet.io.atomic import write_bytes_atomic
from medunet.io.dicom.contours import Mask, Points, trace_contours
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.frames import Frame
from medunet.io.dicom.header import quiet_pydicom
from medunet.io.dicom.rtstruct_file import RTSTRUCT_SOP_CLASS, open_rtstruct, parse_rois
from medunet.io.dicom.rtstruct_read import build_slices, fill_roi
from medunet.io.dicom.stack import DicomStack
from medunet.io.structures import Structure, StructureSet
from medunet.volume import check_same_grid

SERIES_DESCRIPTION = "Automatic segmentation"

_STUDY_SOP_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and still what names a study
_COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
"""Type 2: they must be there, and are empty where the images lack them."""
_COPIED_WHERE_PRESENT = (
    "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "StudyDescription",
)  # fmt: skip
_SERIES_NUMBER = 901  # behind the images in lists of series
_MAX_TEXT = 64  # characters of a long string (LO)
_MAX_CODE = 16  # characters of a short string (SH)
_MAX_DECIMAL_STRING = 16


def write_rtstruct(
    structures: StructureSet,
    path: Path,
    stack: DicomStack,
    *,
    algorithm_name: str,
    algorithm_version: str,
    is_automatic: bool = True,
    series_description: str = SERIES_DESCRIPTION,
) -> None:
    """Write an RT structure set, whole or not at all, after its contours were read back to the same voxels.

    Args:
        structures: On the grid of the stack's volume. Structures without a voxel are listed without contours.
        path: Where to; an older file is replaced.
        stack: The slices that were segmented; patient, study and frame of reference are taken from them.
        algorithm_name: What drew the contours; name and version have at most 63 characters together.
        algorithm_version: Its version.
        is_automatic: Whether that drew the contours, or only converted masks whose origin is unknown.
        series_description: For lists of series, at most 64 characters.

    Raises:
        GeometryError: If the structures do not lie on the grid of the stack.
        VolumeError: If the images lack an identifier that the standard demands.
        OutputError: If a text is too long, there is no structure, the contours do not fill to the same voxels, or the
            file cannot be written.
    """
    content = encode_rtstruct(
        structures,
        stack,
        algorithm_name=algorithm_name,
        algorithm_version=algorithm_version,
        is_automatic=is_automatic,
        series_description=series_description,
    )
    check_encoded_rtstruct(content, structures, stack, path)
    write_bytes_atomic(path, content)


def encode_rtstruct(
    structures: StructureSet,
    stack: DicomStack,
    *,
    algorithm_name: str,
    algorithm_version: str,
    is_automatic: bool = True,
    series_description: str = SERIES_DESCRIPTION,
) -> bytes:
    """A complete DICOM file in memory; arguments and errors are those of `write_rtstruct`, which also checks it."""
    check_same_grid(structures.layers, stack.grid, "The segmentation", f"the series of {stack.frames[0].file}")
    if not structures.structures:
        msg = "There is no structure to write; expected at least one, which may be empty."
        raise OutputError(msg)
    _check_text(series_description, "series description")
    _check_text(f"{algorithm_name} {algorithm_version}", "algorithm's name with its version")
    for structure in structures.structures:
        _check_text(structure.name, "name of a structure")
    with quiet_pydicom():
        dataset = _build_common(stack, series_description)
        dataset.StructureSetLabel = "AUTOMATIC" if is_automatic else "CONVERTED"
        dataset.ReferencedFrameOfReferenceSequence = [_build_frame_of_reference(stack)]
        numbered = list(enumerate(structures.structures, start=1))
        dataset.StructureSetROISequence = [
            _build_roi(structure, number, stack, algorithm_name, algorithm_version, is_automatic=is_automatic)
            for number, structure in numbered
        ]
        dataset.ROIContourSequence = [
            _build_contours(structure, number, mask, stack)
            for (number, structure), mask in zip(numbered, _iterate_masks(structures, stack), strict=True)
        ]
        dataset.RTROIObservationsSequence = [_build_observation(structure, number) for number, structure in numbered]
        return _encode(dataset)


def check_encoded_rtstruct(content: bytes, structures: StructureSet, stack: DicomStack, path: Path) -> None:
    """Read an encoded RT structure set and compare every structure on the original slices, voxel by voxel.

    Args:
        content: Of `encode_rtstruct`.
        structures: What was meant.
        stack: As for `encode_rtstruct`.
        path: Names the file in messages; nothing is read from there.

    Raises:
        OutputError: With the structure and the number of voxels that differ.
    """
    label, dataset = open_rtstruct(DicomFile(path, content=content))
    rois, _ = parse_rois(dataset, label)
    slices = build_slices(stack)
    meant = _iterate_masks(structures, stack)
    for roi, structure, mask in zip(rois, structures.structures, meant, strict=True):
        num_wrong = np.count_nonzero(fill_roi(roi, slices, label)[0] != mask)
        if num_wrong:
            msg = (
                f"Cannot write {path}: read back, the contours of '{structure.name}' differ from the mask in {num_wrong} "
                "voxel(s), expected 0. Nothing was changed. Write another format, and please report this."
            )
            raise OutputError(msg)


# ---- the object ------------------------------------------------------------------------------------------------------


def _build_common(stack: DicomStack, series_description: str) -> Any:
    """Everything but the structures: patient, study, series, equipment, structure set."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    dataset, first, now = Dataset(), stack.frames[0], datetime.datetime.now()
    for keyword in _COPIED:
        setattr(dataset, keyword, "")
    for keyword in (*_COPIED, *_COPIED_WHERE_PRESENT):
        if keyword in first.header:
            dataset.add(copy.deepcopy(first.header[keyword]))
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of structures may hold any letter
    dataset.SOPClassUID = RTSTRUCT_SOP_CLASS
    dataset.SOPInstanceUID = generate_uid(prefix=None)  # 2.25: made of a UUID, needs no registered root
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.StudyInstanceUID = _get_uid(first, "StudyInstanceUID")
    dataset.FrameOfReferenceUID = _get_uid(first, "FrameOfReferenceUID")
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.SeriesNumber = _SERIES_NUMBER
    dataset.SeriesDescription = series_description
    dataset.Modality = "RTSTRUCT"
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = "medunet"
    dataset.SoftwareVersions = __version__
    dataset.InstanceNumber = 1
    dataset.StructureSetName = series_description
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _build_frame_of_reference(stack: DicomStack) -> Any:
    """The images that the contours were drawn on: every instance of the series, once."""
    from pydicom import Dataset

    series, study, frame_of_reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = _get_uid(stack.frames[0], "SeriesInstanceUID")
    instances = {_get_uid(frame, "SOPInstanceUID"): frame for frame in stack.frames}
    series.ContourImageSequence = [_build_image_reference(frame) for frame in instances.values()]
    study.ReferencedSOPClassUID = _STUDY_SOP_CLASS
    study.ReferencedSOPInstanceUID = _get_uid(stack.frames[0], "StudyInstanceUID")
    study.RTReferencedSeriesSequence = [series]
    frame_of_reference.FrameOfReferenceUID = _get_uid(stack.frames[0], "FrameOfReferenceUID")
    frame_of_reference.RTReferencedStudySequence = [study]
    return frame_of_reference


def _build_roi(
    structure: Structure, number: int, stack: DicomStack, algorithm_name: str, version: str, *, is_automatic: bool
) -> Any:
    from pydicom import Dataset

    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = _get_uid(stack.frames[0], "FrameOfReferenceUID")
    roi.ROIName = structure.name
    roi.ROIGenerationAlgorithm = "AUTOMATIC" if is_automatic else ""  # empty: unknown
    roi.ROIGenerationDescription = f"{algorithm_name} {version}"
    if is_automatic:
        roi.ROIDerivationAlgorithmIdentificationSequence = [_identify_algorithm(algorithm_name, version)]
    return roi


def _identify_algorithm(name: str, version: str) -> Any:
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    algorithm = Dataset()
    family = codes.DCM.ArtificialIntelligence
    algorithm.AlgorithmFamilyCodeSequence = [_build_code(family.value, family.meaning, family.scheme_designator)]
    algorithm.AlgorithmName = name
    algorithm.AlgorithmVersion = version
    return algorithm


def _iterate_masks(structures: StructureSet, stack: DicomStack) -> Iterator[Mask]:
    """Each structure on the original slices, ``(N, rows, columns)``."""
    layers = [stack.labels_to_frames(layer) for layer in structures.layers.array]
    for structure in structures.structures:
        layer = layers[structure.layer]
        yield np.isin(layer, structure.values) if len(structure.values) > 1 else layer == structure.values[0]


def _build_contours(structure: Structure, number: int, masks: Mask, stack: DicomStack) -> Any:
    from pydicom import Dataset

    num_decimals = _count_decimals(stack)
    contours: list[Any] = []
    for frame, mask in zip(stack.frames, masks, strict=True):
        for polygon in trace_contours(mask):
            contour = Dataset()
            contour.ContourNumber = len(contours) + 1
            contour.ContourImageSequence = [_build_image_reference(frame, is_one_frame=True)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            contour.ContourData = _format_points(polygon, frame, num_decimals)
            contours.append(contour)
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(structure.color)
    if contours:
        item.ContourSequence = contours
    return item


def _build_observation(structure: Structure, number: int) -> Any:
    from pydicom import Dataset

    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = _guess_interpreted_type(structure.name)
    observation.ROIInterpreter = ""
    if structure.code is not None:
        code = structure.code
        observation.RTROIIdentificationCodeSequence = [
            _build_code(code.value, code.meaning or structure.name, code.scheme)
        ]
    return observation


def _guess_interpreted_type(name: str) -> str:
    """Radiotherapy names its target volumes by their first letters (ICRU Report 83, AAPM TG-263)."""
    word = name.strip().upper()
    if word in ("EXTERNAL", "BODY"):
        return "EXTERNAL"
    return word[:3] if word[:3] in ("GTV", "CTV", "PTV") else "ORGAN"


def _build_image_reference(frame: Frame, *, is_one_frame: bool = False) -> Any:
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = _get_uid(frame, "SOPClassUID")
    reference.ReferencedSOPInstanceUID = _get_uid(frame, "SOPInstanceUID")
    if is_one_frame and int(frame.header.get("NumberOfFrames") or 1) > 1:
        reference.ReferencedFrameNumber = frame.index + 1
    return reference


def _build_code(value: str, meaning: str, scheme: str) -> Any:
    from pydicom import Dataset

    _check_text(meaning, "meaning of a code")
    code = Dataset()
    if len(value) <= _MAX_CODE:
        code.CodeValue = value
    else:
        code.LongCodeValue = value
    code.CodingSchemeDesignator = scheme
    code.CodeMeaning = meaning
    return code


def _format_points(polygon: Points, frame: Frame, num_decimals: int) -> str:
    """Pixels ``(V, 2)`` of a slice as LPS mm in decimal strings."""
    points = polygon @ frame.plane[:3, :2].T + frame.plane[:3, 3]
    return "\\".join(_format_decimal(value, num_decimals) for value in points.ravel().tolist())


def _count_decimals(stack: DicomStack) -> int:
    """Digits that are exact to a ten-thousandth of the smallest distance of pixels or slices."""
    smallest_mm = float(np.linalg.norm(stack.affine[:3, :3], axis=0).min())
    return max(0, 4 - math.floor(math.log10(smallest_mm)))


def _format_decimal(value: float, num_decimals: int) -> str:
    from pydicom.valuerep import format_number_as_ds

    text = f"{value:.{num_decimals}f}"
    return text if len(text) <= _MAX_DECIMAL_STRING else str(format_number_as_ds(value))


def _get_uid(frame: Frame, keyword: str) -> str:
    uid = str(frame.header.get(keyword) or "")
    if not uid:
        msg = (
            f"{frame.file} has no {keyword}, which an RT structure set must state. Take the series from its source again, "
            "or write NIfTI."
        )
        raise VolumeError(msg)
    return uid


def _check_text(text: str, what: str) -> None:
    """DICOM would cut a longer text, and take a backslash for the start of another value."""
    if not text.strip() or len(text) > _MAX_TEXT or "\\" in text or not text.isprintable():
        msg = (
            f"The {what} is '{text[:80]}' ({len(text)} characters); DICOM allows 1 to {_MAX_TEXT} without backslashes and "
            "line breaks. Change it."
        )
        raise OutputError(msg)


def _encode(dataset: Any) -> bytes:
    """Implicit VR: there alone a contour may have more than 65534 bytes of coordinates as a decimal string."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
