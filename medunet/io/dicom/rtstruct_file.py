"""An RT structure set as a file: its structures, parsed and checked, before anything is filled.

pydicom's messages quote values, which may name a patient; none is passed on.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medunet.errors import LabelError, MedunetError, VolumeError
from medunet.io.dicom.contours import Points
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import has_cut_element, quiet_pydicom, read_instance
from medunet.io.structures import Code
from medunet.palette import Color

RTSTRUCT_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"

_CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_ROI_CONTOUR_SEQUENCE = 0x30060039
_CONTOUR_DATA = 0x30060050


class RoiInfo(NamedTuple):
    """One structure of a file, by the name under which `read_rtstruct` gives it."""

    number: int
    name: str
    num_contours: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Roi:
    """One structure of a file, parsed and checked.

    Attributes:
        number: ROINumber.
        name: ROIName, made unique within the file.
        contours: Closed outlines, ``(V, 3)`` LPS mm each.
        num_open: How many contours enclose nothing (points, open lines) and were left out.
        color: Red, green, blue; None where the file has none.
        code: Coded type; None where the file has none.
        frame_of_reference_uid: Of the contours; empty where the file does not say.
    """

    number: int
    name: str
    contours: tuple[Points, ...]
    num_open: int = 0
    color: Color | None = None
    code: Code | None = None
    frame_of_reference_uid: str = ""


def list_rois(source: Path | DicomFile | Any) -> list[RoiInfo]:
    """The structures of a file with the number of their contours, points and open lines included.

    Raises:
        VolumeError: If the file is damaged or no RT structure set.
    """
    label, dataset = open_rtstruct(source)
    with explain_failures(label):
        rois = _list_named(dataset, label)
        contours = _group_contours(dataset, label)
        return [RoiInfo(roi.number, roi.name, len(contours[roi.number])) for roi in rois]


def find_referenced_series_uid(dataset: Any) -> str | None:
    """SeriesInstanceUID of the images on which the contours were drawn; the first where several are named."""
    with explain_failures(_describe(dataset)):
        return next(iterate_referenced_series(dataset), None)


def open_rtstruct(source: Path | DicomFile | Any) -> tuple[str, Any]:
    """A name for messages, and the pydicom ``Dataset``.

    Raises:
        VolumeError: If the source is missing, damaged, cut short or no RT structure set.
    """
    if isinstance(source, Path):
        if not source.is_file():  # a pipe would hang
            msg = f"{source} is not a file; expected an RT structure set. Check the path."
            raise VolumeError(msg)
        source = DicomFile(source)
    label = _describe(source)
    dataset: Any = source
    if isinstance(source, DicomFile):
        instance = read_instance(source)
        if instance is None:
            msg = f"{label} is no DICOM file; expected an RT structure set. Check the path."
            raise VolumeError(msg)
        dataset = instance.header
    with explain_failures(label):
        if str(dataset.get("SOPClassUID", "")) != RTSTRUCT_SOP_CLASS:
            msg = f"{label} is a DICOM object of another kind; expected an RT structure set (modality RTSTRUCT)."
            raise VolumeError(msg)
        if has_cut_element(dataset):
            msg = f"{label} is cut short. Copy it from its source again."
            raise VolumeError(msg)
    return label, dataset


class _Named(NamedTuple):
    number: int
    name: str
    raw_name: str
    item: Any


def parse_rois(dataset: Any, label: str, names: Collection[str] | None = None) -> tuple[list[Roi], list[str]]:
    """The structures in the order of the file, and notes on names that were changed.

    Args:
        dataset: Of `open_rtstruct`.
        label: Name of the file for messages.
        names: As in `read_rtstruct`.

    Raises:
        VolumeError: If numbers or coordinates are missing or wrong.
        LabelError: If one of ``names`` is not in the file.
    """
    with explain_failures(label):
        chosen = _choose(_list_named(dataset, label), names, label)
        contours = _group_contours(dataset, label)
        colors = {
            _get_int(item, "ReferencedROINumber"): _find_color(item)
            for item in _get_items(dataset, "ROIContourSequence")
        }
        codes = {
            _get_int(item, "ReferencedROINumber"): _find_code(item)
            for item in _get_items(dataset, "RTROIObservationsSequence")
        }
        common_uid = _find_frame_of_reference(dataset)
        rois = []
        for roi in chosen:
            closed = [item for item in contours[roi.number] if item.get("ContourGeometricType") in _CLOSED_TYPES]
            rois.append(
                Roi(
                    number=roi.number,
                    name=roi.name,
                    contours=tuple(_parse_points(item, roi, label) for item in closed),
                    num_open=len(contours[roi.number]) - len(closed),
                    color=colors.get(roi.number),
                    code=codes.get(roi.number),
                    frame_of_reference_uid=str(roi.item.get("ReferencedFrameOfReferenceUID") or common_uid),
                )
            )
    renamed = ", ".join(f"'{roi.name}'" for roi in chosen if roi.name != roi.raw_name)
    notes = [f"{label} has ROIs without a name of their own; they are called {renamed}."] if renamed else []
    return rois, notes


def _list_named(dataset: Any, label: str) -> list[_Named]:
    """The ROIs of the file under unique names."""
    items = _get_items(dataset, "StructureSetROISequence")
    if not items:
        msg = f"{label} lists no ROI (StructureSetROISequence is missing or empty); expected at least one."
        raise VolumeError(msg)
    numbers = [_get_int(item, "ROINumber") for item in items]
    if len(set(numbers)) < len(numbers):
        msg = f"{label} gives ROI number {Counter(numbers).most_common(1)[0][0]} twice; expected unique numbers. Export it again."
        raise VolumeError(msg)
    raw_names = [str(item.get("ROIName") or "").strip() for item in items]
    taken = {name for name, count in Counter(raw_names).items() if count == 1 and name}
    named = []
    for number, raw_name, item in zip(numbers, raw_names, items, strict=True):
        name = raw_name
        if raw_name not in taken:
            name = f"{raw_name} ({number})" if raw_name else f"ROI {number}"
            while name in taken:  # "GTV (3)" may be another's name
                name += f" ({number})"
        named.append((number, name, raw_name, item))
        taken.add(name)
    return [_Named(*roi) for roi in named]


def _choose(rois: list[_Named], names: Collection[str] | None, label: str) -> list[_Named]:
    if names is None:
        return rois
    known = {name for roi in rois for name in (roi.name, roi.raw_name)}
    for name in names:
        if name not in known:
            there = ", ".join(f"'{roi.name}'" for roi in rois[:20]) + (", ..." if len(rois) > 20 else "")
            msg = f"{label} has no ROI named '{name}'; it has {there}. Choose among these."
            raise LabelError(msg)
    return [roi for roi in rois if roi.name in names or roi.raw_name in names]


def _group_contours(dataset: Any, label: str) -> dict[int, list[Any]]:
    """The contour items of each ROI number."""
    if max(dataset.keys()) < _ROI_CONTOUR_SEQUENCE:  # optional, but it is never the last thing in a file
        msg = f"{label} ends before its contours; it was cut short. Copy it from its source again."
        raise VolumeError(msg)
    listed = {_get_int(item, "ROINumber") for item in _get_items(dataset, "StructureSetROISequence")}
    groups: dict[int, list[Any]] = defaultdict(list)
    for item in _get_items(dataset, "ROIContourSequence"):
        number = _get_int(item, "ReferencedROINumber")
        if number not in listed:
            msg = (
                f"{label} has contours of ROI number {number}, which it does not list; it is damaged. Export it again."
            )
            raise VolumeError(msg)
        groups[number].extend(_get_items(item, "ContourSequence"))
    return groups


def _parse_points(contour: Any, roi: _Named, label: str) -> Points:
    """The points of one contour, ``(V, 3)`` LPS mm."""
    where = f"{label}: ROI number {roi.number} ('{roi.name}')"
    numbers = _parse_numbers(contour, where)
    if numbers.size == 0 or numbers.size % 3:
        msg = f"{where} has a contour of {numbers.size} coordinates; expected three for each point. Export it again."
        raise VolumeError(msg)
    if not np.isfinite(numbers).all():
        msg = f"{where} has a contour with NaN or infinity; expected finite coordinates. Export it again."
        raise VolumeError(msg)
    stated = contour.get("NumberOfContourPoints")
    if stated is not None and int(stated) != numbers.size // 3:
        msg = (
            f"{where} has a contour of {numbers.size // 3} points that claims to have {int(stated)}; the file is "
            "damaged. Export it again."
        )
        raise VolumeError(msg)
    return numbers.reshape(-1, 3)


def _parse_numbers(contour: Any, where: str) -> NDArray[np.float64]:
    """ContourData, from the bytes of the file where they are still there: pydicom's decimal strings are slow."""
    element = contour.get_item(_CONTOUR_DATA)
    value = b"" if element is None or element.value is None else element.value
    parts = value.strip(b" \0").split(b"\\") if isinstance(value, bytes) else np.atleast_1d(value)
    try:
        return np.array([float(part) for part in parts] if len(parts) > 1 else [], dtype=np.float64)
    except (ValueError, TypeError):
        msg = f"{where} has a contour with text among its coordinates; expected numbers. Export it again."
        raise VolumeError(msg) from None


def _find_color(item: Any) -> Color | None:
    """A colour is worth no error."""
    try:
        red, green, blue = (int(part) for part in item.get("ROIDisplayColor") or ())
    except (ValueError, TypeError):
        return None
    color = red, green, blue
    return color if all(0 <= part <= 255 for part in color) else None


def _find_code(observation: Any) -> Code | None:
    for item in _get_items(observation, "RTROIIdentificationCodeSequence"):
        value = str(item.get("CodeValue") or item.get("LongCodeValue") or "")
        scheme = str(item.get("CodingSchemeDesignator") or "")
        if value and scheme:
            return Code(value=value, meaning=str(item.get("CodeMeaning") or ""), scheme=scheme)
    return None


def _find_frame_of_reference(dataset: Any) -> str:
    """The frame of reference for ROIs that do not state their own; empty where it is not clear."""
    uids = {
        str(item.get("FrameOfReferenceUID") or "") for item in _get_items(dataset, "ReferencedFrameOfReferenceSequence")
    }
    if len(uids) == 1:
        return uids.pop()
    return "" if uids else str(dataset.get("FrameOfReferenceUID") or "")


def iterate_referenced_series(dataset: Any) -> Iterator[str]:
    """SeriesInstanceUID of every series of images that the file refers to."""
    for frame_of_reference in _get_items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in _get_items(frame_of_reference, "RTReferencedStudySequence"):
            for series in _get_items(study, "RTReferencedSeriesSequence"):
                if uid := str(series.get("SeriesInstanceUID") or ""):
                    yield uid


def _get_items(dataset: Any, keyword: str) -> list[Any]:
    return list(dataset.get(keyword) or [])


def _get_int(item: Any, keyword: str) -> int:
    return int(item[keyword].value)


def _describe(source: Any) -> str:
    if isinstance(source, DicomFile):
        return str(source)
    name = getattr(source, "filename", None)
    return str(name) if isinstance(name, (str, Path)) and str(name) else "The RT structure set"


@contextlib.contextmanager
def explain_failures(label: str) -> Iterator[None]:
    """One line for whatever pydicom meets in a damaged file; its own messages quote values, which may name a patient."""
    try:
        with quiet_pydicom():
            yield
    except MedunetError:
        raise
    except Exception as error:  # struct.error, EOFError, KeyError, ValueError, NotImplementedError, ...
        msg = f"{label} is a damaged RT structure set ({type(error).__name__} while reading it). Export it again."
        raise VolumeError(msg) from None
