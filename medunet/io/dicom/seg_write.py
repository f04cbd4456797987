"""`StructureSet` to DICOM SEG, on the slices of the scan that it was drawn on; read back and compared before it counts.

highdicom builds the object; the frames lie exactly where the slices lie, tilted and unevenly spaced ones too. The
format is described in DICOM PS3.3, sections A.51 and C.8.20.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medunet.errors import LabelError, MedunetError, OutputError, VolumeError
from medunet.io.affine import LPS_FROM_RAS
from medunet.io.atomic import write_bytes_atomic
from medunet.io.dicom.frames import get_num_frames
from medunet.io.dicom.header import get_text, quiet_pydicom
from medunet.io.dicom.seg_file import TISSUE, open_seg
from medunet.io.dicom.seg_place import iterate_masks, place_on_stack
from medunet.io.dicom.stack import JITTER_MM, DicomStack
from medunet.io.structures import Code, Structure, StructureSet
from medunet.volume import Array, check_same_grid

ANATOMICAL_STRUCTURE = Code(value="91723000", meaning="Anatomical structure")
"""Category of a coded structure that is given no other (SNOMED CT)."""

_MAX_FULL_BYTES = 2**29
_SERIES_NUMBER = 900
_GRID_TOLERANCE_MM = 4 * JITTER_MM  # positions of slices jitter at both ends of a stack
_LO_LENGTH = 64  # characters of a DICOM long string
_CARRIED_OVER = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "StudyDescription", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialTimePointID", "PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip

_log = logging.getLogger(__name__)


def write_seg(
    structures: StructureSet,
    path: Path,
    stack: DicomStack,
    *,
    kind: Literal["binary", "labelmap"] = "binary",
    algorithm_name: str,
    algorithm_version: str,
    is_automatic: bool = True,
    series_description: str = "Segmentation",
    categories: Mapping[str, Code] | None = None,
) -> None:
    """Write a segmentation, whole or not at all; for the arguments and errors see `encode_seg`."""
    content = encode_seg(
        structures,
        stack,
        kind=kind,
        algorithm_name=algorithm_name,
        algorithm_version=algorithm_version,
        is_automatic=is_automatic,
        series_description=series_description,
        categories=categories,
    )
    write_bytes_atomic(path, content)


def encode_seg(
    structures: StructureSet,
    stack: DicomStack,
    *,
    kind: Literal["binary", "labelmap"] = "binary",
    algorithm_name: str,
    algorithm_version: str,
    is_automatic: bool = True,
    series_description: str = "Segmentation",
    categories: Mapping[str, Code] | None = None,
) -> bytes:
    """Make a DICOM file of a segmentation and check it by reading it back.

    Frames without a voxel are kept, because old viewers misplace a segmentation that leaves them out; only above
    512 MiB of pixel data they are left out, which is logged. A structure without a voxel stays listed, and a
    segmentation without any is valid.

    Args:
        structures: On the grid of ``stack``.
        stack: The scan that they were drawn on. The object belongs to its patient, study and frame of reference.
        kind: ``"binary"`` has one mask per structure and is what viewers and archives know. ``"labelmap"`` (DICOM 2024c)
            has one value per voxel, which is smaller, and which older archives refuse.
        algorithm_name: What made the masks, such as the name of a model.
        algorithm_version: Of it.
        is_automatic: Whether that drew the masks, or only converted masks whose origin is unknown.
        series_description: For people.
        categories: Name of a structure -> coded category; `ANATOMICAL_STRUCTURE` for coded structures that are not
            listed. Structures without a code have `TISSUE` for category and type, as 3D Slicer writes them.

    Returns:
        The bytes of the file: explicit VR little endian.

    Raises:
        GeometryError: If ``structures`` lie on another grid than ``stack``.
        LabelError: If there are no structures, a name does not fit into DICOM, or structures of a labelmap overlap.
        VolumeError: If the scan's files lack the identifiers to which a segmentation must refer.
        OutputError: If what was written does not read back the same.
    """
    _check_grid(structures, stack)
    _check_names(structures)
    references = _read_references(stack)
    if kind == "labelmap":
        _log.warning("DICOM archives from before 2024 refuse labelmap segmentations; binary ones are known to all.")
    # Each (slices, rows, columns), slice after slice in memory: what follows goes over them many times.
    layers = [np.ascontiguousarray(stack.labels_to_frames(layer)) for layer in structures.layers.array]
    with _naming_failure(stack):
        algorithm = _identify_algorithm(algorithm_name, algorithm_version, is_automatic=is_automatic)
        segments = _describe_segments(structures, algorithm, categories or {}, is_automatic=is_automatic)
        build = _build_labelmap if kind == "labelmap" else _build_binary
        dataset = build(structures, layers, stack, segments)
        _add_series(dataset, algorithm_name, algorithm_version, series_description)
        _add_references(dataset, references)
        _add_patient_and_study(dataset, stack)
        content = _to_bytes(dataset)
    del dataset
    _compare(content, structures, layers, stack)
    return content


@contextlib.contextmanager
def _naming_failure(stack: DicomStack) -> Iterator[None]:
    """One error for whatever pydicom and highdicom stumble over; their own texts may quote a patient's name."""
    try:
        with quiet_pydicom():
            yield
    except MedunetError:
        raise
    except Exception as error:
        msg = (
            f"The attributes of {stack.frames[0].file} cannot be carried over into a DICOM segmentation "
            f"({type(error).__name__}); expected those of the standard. Write NIfTI instead."
        )
        raise OutputError(msg) from None


# ---- checks before ---------------------------------------------------------------------------------------------------


def _check_grid(structures: StructureSet, stack: DicomStack) -> None:
    check_same_grid(structures.layers, stack.grid, "The structures", "the DICOM scan")


def _check_names(structures: StructureSet) -> None:
    if not structures.structures:
        msg = "There are no structures to write; a DICOM segmentation needs one at least, which may be empty."
        raise LabelError(msg)
    for structure in structures.structures:
        name = structure.name
        if not 0 < len(name) <= _LO_LENGTH or name != name.strip() or "\\" in name or not name.isprintable():
            msg = (
                f"The structure name {name[:80]!r} does not fit into DICOM; expected 1 to {_LO_LENGTH} printable "
                "characters without a backslash or outer spaces. Rename the structure."
            )
            raise LabelError(msg)


def _read_references(stack: DicomStack) -> list[tuple[str, str, int | None]]:
    """SOP class, SOP instance and number of the frame (from 1; None for a single-frame file) of each slice."""
    references: list[tuple[str, str, int | None]] = []
    for frame in stack.frames:
        header = frame.header
        sop_class = get_text(header, "SOPClassUID") or get_text(
            getattr(header, "file_meta", {}), "MediaStorageSOPClassUID"
        )
        sop_instance = get_text(header, "SOPInstanceUID")
        missing = [
            keyword
            for keyword, value in (
                ("SOPClassUID", sop_class),
                ("SOPInstanceUID", sop_instance),
                ("SeriesInstanceUID", get_text(header, "SeriesInstanceUID")),
                ("StudyInstanceUID", get_text(header, "StudyInstanceUID")),
            )
            if not value
        ]
        if missing:
            msg = (
                f"{frame.file} has no {missing[0]}; a DICOM segmentation must refer to its images by it. Write NIfTI "
                "instead, or take the scan from its archive again."
            )
            raise VolumeError(msg)
        references.append((sop_class, sop_instance, None if get_num_frames(header) is None else frame.index + 1))
    return references


# ---- building --------------------------------------------------------------------------------------------------------


def _identify_algorithm(name: str, version: str, *, is_automatic: bool) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    if is_automatic:
        return AlgorithmIdentificationSequence(
            name=_shorten(name), version=_shorten(version), family=codes.DCM.ArtificialIntelligence
        )
    return AlgorithmIdentificationSequence(
        name=_shorten(f"unknown origin ({name})"), version=_shorten(version), family=codes.DCM.ManualProcessing
    )


def _describe_segments(
    structures: StructureSet, algorithm: Any, categories: Mapping[str, Code], *, is_automatic: bool
) -> list[Any]:
    from highdicom import UID
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    segments = []
    for number, structure in enumerate(structures.structures, start=1):
        default = TISSUE if structure.code is None else ANATOMICAL_STRUCTURE
        segments.append(
            SegmentDescription(
                segment_number=number,
                segment_label=structure.name,
                segmented_property_category=_to_concept(categories.get(structure.name, default)),
                segmented_property_type=_to_concept(structure.code or TISSUE),
                # The standard knows no "unknown"; a person may have had a part in a mask that was only converted.
                algorithm_type="AUTOMATIC" if is_automatic else "SEMIAUTOMATIC",
                algorithm_identification=algorithm,
                tracking_uid=UID(),
                tracking_id=structure.name,
                display_color=CIELabColor.from_rgb(*structure.color),
            )
        )
    return segments


def _to_concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    try:
        return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)
    except ValueError:
        msg = (
            f"The code {code.value!r} of scheme {code.scheme!r} does not fit into DICOM; expected a scheme of 1 to 16 and "
            f"a meaning of 1 to {_LO_LENGTH} characters. Correct it in the task."
        )
        raise LabelError(msg) from None


def _shorten(text: str) -> str:
    """A DICOM long string; a backslash would part it in two."""
    short = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text).strip()[:_LO_LENGTH]
    if short != text:
        _log.warning("The text %r was written as %r, which fits into DICOM.", text[:120], short)
    return short or "unknown"


def _build_binary(structures: StructureSet, layers: list[Array], stack: DicomStack, segments: list[Any]) -> Any:
    """One mask per structure, bit by bit, one after the other in memory."""
    occupied = np.zeros((len(stack.frames), len(segments)), dtype=np.bool_)
    seen = np.zeros(layers[0].shape, dtype=np.bool_)
    is_overlapping = False
    for index, structure in enumerate(structures.structures):
        mask = _get_mask(layers, structure)
        occupied[:, index] = mask.any(axis=(1, 2))
        is_overlapping = is_overlapping or bool((seen & mask).any())
        seen |= mask
    num_bytes = len(segments) * layers[0].size // 8
    is_full = num_bytes <= _MAX_FULL_BYTES
    if not is_full:
        _log.warning("The segmentation would have %d MiB; its frames without a voxel are left out.", num_bytes // 2**20)
    dataset = _build_object("BINARY", occupied, stack, segments, omit_empty_frames=not is_full)
    dataset.SegmentsOverlap = "YES" if is_overlapping else "NO"
    dataset.Rows, dataset.Columns = stack.frames[0].shape
    chosen: list[list[int]] = [[] for _ in segments]
    for segment, frame in _list_frames(dataset):
        chosen[segment - 1].append(frame)
    pairs = zip(structures.structures, chosen, strict=True)
    dataset.PixelData = b"".join(_pack(_get_mask(layers, structure)[frames] for structure, frames in pairs))
    return dataset


def _build_labelmap(structures: StructureSet, layers: list[Array], stack: DicomStack, segments: list[Any]) -> Any:
    """One value per voxel: the number of the structure in the list."""
    nothing = np.zeros((len(stack.frames), len(segments)), dtype=np.bool_)
    dataset = _build_object("LABELMAP", nothing, stack, segments, omit_empty_frames=False)
    labels = np.zeros(layers[0].shape, dtype="<u2" if dataset.BitsAllocated == 16 else np.uint8)
    for number, structure in enumerate(structures.structures, start=1):
        mask = _get_mask(layers, structure)
        taken = labels[mask]
        if taken.any():
            other = structures.structures[int(taken.max()) - 1].name
            msg = (
                f"The structures '{other}' and '{structure.name}' overlap; a labelmap segmentation has one value per voxel "
                "and cannot show that. Write a binary one."
            )
            raise LabelError(msg)
        labels[mask] = number
    dataset.Rows, dataset.Columns = stack.frames[0].shape
    content = labels[[frame for _, frame in _list_frames(dataset)]].tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    return dataset


def _get_mask(layers: list[Array], structure: Structure) -> NDArray[np.bool_]:
    """The voxels of one structure on the slices, ``(N, rows, columns)``."""
    layer: Array = layers[structure.layer]
    mask: NDArray[np.bool_] = layer == structure.values[0]
    for value in structure.values[1:]:  # np.isin takes ten times as long
        mask |= layer == value
    return mask


def _build_object(
    kind: str, occupied: NDArray[np.bool_], stack: DicomStack, segments: list[Any], *, omit_empty_frames: bool
) -> Any:
    """The object with all attributes but the voxels.

    highdicom wants the masks of all structures in one array; with 20 of them on 200 slices of 512 x 512 the process grew
    to 2.8 GB, this way to 0.7. It gets a scan of one pixel per slice that says which frames are needed; true size and
    voxels are filled in afterwards.

    Args:
        kind: ``"BINARY"`` or ``"LABELMAP"``.
        occupied: ``(slices, structures)``: whether the structure has a voxel on the slice.
        stack: The scan.
        segments: Descriptions.
        omit_empty_frames: Whether frames that are not ``occupied`` are left out.
    """
    from highdicom import UID, PlanePositionSequence
    from highdicom.seg import Segmentation

    if omit_empty_frames and not occupied.any():
        occupied = occupied.copy()
        occupied[0, 0] = True  # an object needs a frame
    sources = _build_sources(stack)
    return Segmentation(
        source_images=sources,
        pixel_array=occupied[:, np.newaxis, np.newaxis, :],
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="medunet",
        manufacturer_model_name="medunet",
        software_versions="1",
        device_serial_number="1",
        content_label="SEGMENTATION",
        plane_positions=[PlanePositionSequence("PATIENT", source.ImagePositionPatient) for source in sources],
        omit_empty_frames=omit_empty_frames,
    )


def _build_sources(stack: DicomStack) -> list[Any]:
    """A scan of one pixel per slice, in the place of the true one.

    It carries no name: what highdicom copies from images it also logs. And it has one file and one UID per slice, so
    that multi-frame scans, of which only some frames may be ours, take the same way.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage
    from pydicom.valuerep import format_number_as_ds

    header, first = stack.frames[0].header, stack.frames[0]
    frame_of_reference = stack.frame_of_reference_uid or _invent_frame_of_reference(stack)
    spacing = [format_number_as_ds(mm) for mm in (first.spacing[1], first.spacing[0])]
    directions = [*(first.plane[:3, 0] / first.spacing[0]), *(first.plane[:3, 1] / first.spacing[1])]
    orientation = [format_number_as_ds(float(cosine)) for cosine in directions]
    thickness = _find_thickness(stack)
    sources = []
    for index, frame in enumerate(stack.frames):
        source = Dataset()
        source.SOPClassUID = CTImageStorage
        source.SOPInstanceUID = f"2.25.{index + 1}"
        source.StudyInstanceUID = get_text(header, "StudyInstanceUID")
        source.SeriesInstanceUID = get_text(header, "SeriesInstanceUID")
        source.FrameOfReferenceUID = frame_of_reference
        for keyword in (
            "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
            "AccessionNumber",
        ):  # fmt: skip
            setattr(source, keyword, "")
        source.Rows, source.Columns = 1, 1
        source.PixelSpacing = spacing
        source.SliceThickness = thickness
        source.ImageOrientationPatient = orientation
        source.ImagePositionPatient = [format_number_as_ds(float(mm)) for mm in frame.plane[:3, 3]]
        sources.append(source)
    return sources


def _invent_frame_of_reference(stack: DicomStack) -> str:
    """From the UID of the series, so that all segmentations of one scan share it."""
    from pydicom.uid import generate_uid

    _log.warning(
        "The scan has no FrameOfReferenceUID; the segmentation has one of its own and names the images that it belongs to."
    )
    return str(generate_uid(entropy_srcs=["medunet frame of reference", stack.series_uid]))


def _find_thickness(stack: DicomStack) -> str:
    """The distance of the slices: the volume that a voxel of the mask stands for."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float(np.linalg.norm(stack.affine[:3, 2]))))


def _list_frames(dataset: Any) -> Iterator[tuple[int, int]]:
    """Segment number (0 in a labelmap) and slice of each frame, as the object orders them."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        identification = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        number = int(identification[0].ReferencedSegmentNumber) if identification else 0
        yield number, _get_source(group)


def _get_source(group: Any) -> int:
    """The slice that a frame was made from, by the UID that `_build_sources` gave it."""
    reference = group.DerivationImageSequence[0].SourceImageSequence[0]
    return int(reference.ReferencedSOPInstanceUID.rpartition(".")[2]) - 1


def _pack(masks: Iterator[NDArray[np.bool_]]) -> Iterator[bytes]:
    """Eight voxels to a byte, across the borders of frames and structures; an even number of bytes in all."""
    rest = np.zeros(0, dtype=np.bool_)
    num_bytes = 0
    for mask in masks:
        bits = np.concatenate([rest, mask.ravel()]) if rest.size else mask.ravel()
        whole = bits.size // 8 * 8
        rest = bits[whole:].copy()
        num_bytes += whole // 8
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
    last = np.packbits(rest, bitorder="little").tobytes()
    yield last + b"\0" * ((num_bytes + len(last)) % 2)


# ---- attributes of the true scan -------------------------------------------------------------------------------------


def _add_series(dataset: Any, algorithm_name: str, algorithm_version: str, series_description: str) -> None:
    dataset.ManufacturerModelName = _shorten(algorithm_name)
    dataset.SoftwareVersions = _shorten(algorithm_version)
    dataset.SeriesDescription = _shorten(series_description)
    dataset.ContentCreatorName = ""  # nobody; the standard wants it to be there


def _add_references(dataset: Any, references: list[tuple[str, str, int | None]]) -> None:
    """Name the true images instead of those of `_build_sources`."""
    from pydicom.dataset import Dataset

    # Frames of the same slice share one item, so it is changed once.
    done: set[int] = set()
    for group in dataset.PerFrameFunctionalGroupsSequence:
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        if id(item) in done:
            continue
        done.add(id(item))
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, number = references[_get_source(group)]
        if number is not None:
            item.ReferencedFrameNumber = number
    items = []
    for sop_class, sop_instance in dict.fromkeys(reference[:2] for reference in references):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        items.append(item)
    dataset.SourceImageSequence = items
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = items


def _add_patient_and_study(dataset: Any, stack: DicomStack) -> None:
    """What the scan says; what it lacks and the standard wants to be there (type 2) is there and empty."""
    header = stack.frames[0].header
    own = [dataset.ManufacturerModelName, dataset.SoftwareVersions, dataset.SeriesDescription]
    is_ascii = all(str(text).isascii() for text in (*own, *dataset.SegmentSequence))
    # Other letters of ours need Unicode; else the character set of the patient's name stays.
    character_set = header.get("SpecificCharacterSet") if is_ascii else "ISO_IR 192"
    for keyword in _CARRIED_OVER:
        if keyword in header:
            dataset.add(header[keyword])
    if character_set:
        dataset.SpecificCharacterSet = character_set


def _to_bytes(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# ---- checks after ----------------------------------------------------------------------------------------------------


def _compare(content: bytes, structures: StructureSet, layers: list[Array], stack: DicomStack) -> None:
    """Read the object as a stranger would and hold every voxel and the grid against what was given."""
    try:
        problem = _find_difference(content, structures, layers, stack)
    except MedunetError as error:
        problem = f"does not read back ({error})"
    if problem:
        msg = f"The DICOM segmentation {problem}, so it was not written; expected what was given. Please report this."
        raise OutputError(msg)


def _find_difference(content: bytes, structures: StructureSet, layers: list[Array], stack: DicomStack) -> str:
    seg = open_seg(content)
    names = [segment.name for segment in seg.segments]
    if names != [structure.name for structure in structures.structures]:
        return f"lists the structures {names}"
    canvas = place_on_stack(seg, stack)
    pairs = zip(structures.structures, iterate_masks(seg, canvas, seg.segments), strict=True)
    for structure, (_, found) in pairs:
        num_wrong = int(np.count_nonzero(_get_mask(layers, structure) != found))
        if num_wrong:
            return f"differs in {num_wrong} voxels of '{structure.name}'"
    distance_mm = _measure_grid(stack)
    if distance_mm > _GRID_TOLERANCE_MM:
        return f"lies on slices that are {distance_mm:.2f} mm off the grid of the structures"
    return ""


def _measure_grid(stack: DicomStack) -> float:
    """How far the slices, which the frames were held against, lie from the grid of the structures, in mm."""
    if stack.regrid is not None:
        return 0.0
    rows, columns = stack.frames[0].shape
    corners = np.array([(i, j, 0, 1) for i in (0, columns - 1) for j in (0, rows - 1)]).T
    affine_lps = LPS_FROM_RAS @ stack.affine
    distances = [
        np.linalg.norm(affine_lps @ (corners + np.array([[0], [0], [k], [0]])) - frame.plane @ corners, axis=0).max()
        for k, frame in enumerate(stack.frames)
    ]
    return float(max(distances))
