"""RT structure sets (RTSTRUCT) to `StructureSet`: closed planar contours filled on the slices they were drawn on.

All contours of a structure on a slice are filled together by the even-odd rule; a pixel belongs where its centre lies
inside (`contours.fill_contours`). Nothing is interpolated between slices. What cannot become voxels is left out and
said: points and open contours, contours beyond the slices, contours of a denser series. What would make a wrong mask is
refused: contours that are not parallel to the slices, another frame of reference, coordinates that are no numbers.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError, LabelError, MedunetError, VolumeError
from medunet.io.dicom.contours import Mask, Points, fill_contours
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import quiet_pydicom, read_instance
from medunet.io.dicom.stack import DicomStack
from medunet.io.structures import Code, Color, StructureSet, from_masks
from medunet.volume import Volume

logger = logging.getLogger(__name__)

RTSTRUCT_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"

_CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_ROI_CONTOUR_SEQUENCE = 0x30060039
_CONTOUR_DATA = 0x30060050
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PLANE_TOLERANCE_MM = 0.1
"""How far the points of a contour may lie from a common plane, and that plane from its slice without a note. Some
systems write one decimal, which moves a point by up to 0.05 mm along each axis."""


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


def read_rtstruct(
    source: Path | DicomFile | Any, stack: DicomStack, *, names: Collection[str] | None = None
) -> StructureSet:
    """Fill the contours of an RT structure set on the slices of a series.

    Structures that overlap come in several layers. Structures without a contour, or whose contours enclose no pixel's
    centre, stay listed without a voxel. The contours may have been drawn on another series of the same frame of
    reference (a PET beside its CT): their coordinates are the patient's, so this is a note. Contours may reach beyond
    the slices (a body outline on a cropped scan), so what lies outside is a note too, with its count.

    Args:
        source: The file, or a pydicom ``Dataset``.
        stack: The slices; the result lies on the grid of their volume.
        names: Only these structures, by ROI name; None for all.

    Returns:
        In the order of the file. ROI names that occur twice have the ROI number appended: ``"GTV (3)"``.

    Raises:
        VolumeError: If the file is damaged or no RT structure set, has coordinates that are no numbers, or contours
            that are not parallel to the slices.
        GeometryError: If the contours belong to another frame of reference, or nothing says to which.
        LabelError: If one of ``names`` is not in the file.
    """
    label, dataset = open_rtstruct(source)
    rois, notes = parse_rois(dataset, label, names)
    notes += _check_same_space(dataset, rois, stack, label)
    slices = build_slices(stack)

    def fill() -> Iterator[tuple[str, Mask]]:
        for roi in rois:
            mask, roi_notes = fill_roi(roi, slices, label)
            notes.extend(roi_notes)
            yield roi.name, mask

    # Layers are made on the slices and turned onto the grid one by one, rather than every mask by itself.
    on_slices = from_masks(
        fill(),
        Volume(np.broadcast_to(np.uint8(0), (1, *slices.shape)), np.eye(4)),
        codes={roi.name: roi.code for roi in rois if roi.code is not None},
        colors={roi.name: roi.color for roi in rois if roi.color is not None},
    )
    layers = np.stack([stack.labels_from_frames(layer) for layer in on_slices.layers.array])
    structures = StructureSet(layers=Volume(layers, stack.affine), structures=on_slices.structures)
    for note in notes:
        logger.warning(note)
    return structures


def list_rois(source: Path | DicomFile | Any) -> list[RoiInfo]:
    """The structures of a file with the number of their contours, points and open lines included.

    Raises:
        VolumeError: If the file is damaged or no RT structure set.
    """
    label, dataset = open_rtstruct(source)
    with _explain_failures(label):
        rois = _list_named(dataset, label)
        contours = _group_contours(dataset, label)
        return [RoiInfo(roi.number, roi.name, len(contours[roi.number])) for roi in rois]


def find_referenced_series_uid(dataset: Any) -> str | None:
    """SeriesInstanceUID of the images on which the contours were drawn; the first where several are named."""
    with _explain_failures(_describe(dataset)):
        return next(_iterate_referenced_series(dataset), None)


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
    with _explain_failures(label):
        if str(dataset.get("SOPClassUID", "")) != RTSTRUCT_SOP_CLASS:
            msg = f"{label} is a DICOM object of another kind; expected an RT structure set (modality RTSTRUCT)."
            raise VolumeError(msg)
        _check_whole(dataset, label)
    return label, dataset


# ---- filling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Slices:
    """Where the slices lie, in the form that contours need.

    Attributes:
        shape: Slices, rows and columns.
        normal: Unit vector across the slices, LPS.
        positions_mm: Of each slice along the normal, rising.
        reaches_mm: How far from each slice a contour may lie and still belong to it: half the way to its nearer
            neighbour.
        from_lps: LPS mm to ``(column, row, ...)`` of each slice, ``(N, 4, 4)``.
    """

    shape: tuple[int, int, int]
    normal: Points
    positions_mm: Points
    reaches_mm: Points
    from_lps: Points


def build_slices(stack: DicomStack) -> Slices:
    """The geometry of a stack's original slices."""
    planes = np.stack([frame.plane for frame in stack.frames])
    normal = planes[0, :3, 2]
    positions_mm = planes[:, :3, 3] @ normal
    gaps_mm = np.diff(positions_mm)
    if gaps_mm.size == 0:
        gaps_mm = np.array([np.linalg.norm(stack.affine[:3, 2])])
    nearer_mm = np.minimum(np.append(gaps_mm, np.inf), np.append(np.inf, gaps_mm)) if len(planes) > 1 else gaps_mm
    return Slices(
        shape=(len(planes), *stack.frames[0].shape),
        normal=normal,
        positions_mm=positions_mm,
        reaches_mm=nearer_mm / 2,
        from_lps=np.linalg.inv(planes).astype(np.float64),
    )


def fill_roi(roi: Roi, slices: Slices, label: str) -> tuple[Mask, list[str]]:
    """The voxels of one structure on the original slices.

    Returns:
        ``(N, rows, columns)``, and notes on what was left out or found odd.

    Raises:
        VolumeError: If a contour is not parallel to the slices.
    """
    mask = np.zeros(slices.shape, dtype=bool)
    polygons, notes = _assign_contours(roi, slices, label)
    num_outside = 0
    last = np.array(slices.shape[:0:-1]) - 1.0  # (columns, rows)
    for n, contours in polygons.items():
        points = [_to_pixels(contour, slices.from_lps[n]) for contour in contours]
        num_outside += sum(bool((xy < -1).any() or (xy > last + 1).any()) for xy in points)
        mask[n] = fill_contours(points, slices.shape[1:])
    if num_outside:
        notes.append(f"{num_outside} contour(s) reach beyond the image and are cut off at its border")
    if roi.num_open:
        notes.append(f"{roi.num_open} contour(s) are points or open lines, which enclose nothing, and were left out")
    if not mask.any():
        notes.append("it has no voxel on this series")
    elif num_skipped := _count_skipped(mask):
        notes.append(f"{num_skipped} slice(s) between its first and last are empty")
    return mask, [f"{label}: ROI '{roi.name}': {note}." for note in notes]


def _assign_contours(roi: Roi, slices: Slices, label: str) -> tuple[dict[int, list[Points]], list[str]]:
    """The contours of each slice: those of the one plane that lies nearest to it.

    Contours of a denser series may bring two planes to one slice; even-odd filling would cancel one by the other.
    """
    planes: dict[int, list[tuple[float, float, Points]]] = defaultdict(list)
    num_beyond = 0
    for contour in roi.contours:
        depth_mm = _measure_depth(contour, slices, roi, label)
        distances_mm = np.abs(slices.positions_mm - depth_mm)
        # In rounded fractions, so that planes half way between slices all go to the same side.
        n = int(np.round(distances_mm / slices.reaches_mm.min(), 3).argmin())
        if distances_mm[n] > 1.001 * slices.reaches_mm[n]:
            num_beyond += 1
        else:
            planes[n].append((float(distances_mm[n]), depth_mm, contour))

    polygons: dict[int, list[Points]] = {}
    farthest_mm = 0.0
    for n, candidates in planes.items():
        distance_mm, nearest_mm, _ = min(candidates, key=lambda candidate: candidate[0])
        tolerance_mm = _get_tolerance(slices, n)
        polygons[n] = [points for _, depth_mm, points in candidates if abs(depth_mm - nearest_mm) <= tolerance_mm]
        farthest_mm = max(farthest_mm, distance_mm)

    notes = []
    if num_beyond:
        notes.append(f"{num_beyond} contour(s) lie beyond the slices or in a gap between them and were left out")
    num_doubled = len(roi.contours) - num_beyond - sum(map(len, polygons.values()))
    if num_doubled:
        notes.append(
            f"{num_doubled} contour(s) lie between slices, nearer ones take their place; they were drawn on a denser series"
        )
    if farthest_mm > _PLANE_TOLERANCE_MM:
        notes.append(f"contours lie up to {farthest_mm:.2f} mm from their slices; each was filled on the nearest slice")
    return polygons, notes


def _measure_depth(contour: Points, slices: Slices, roi: Roi, label: str) -> float:
    """Where along the normal a contour lies."""
    depths_mm = contour @ slices.normal
    depth_mm = float(depths_mm.min() + depths_mm.max()) / 2
    deviation_mm = float(depths_mm.max()) - depth_mm
    n = int(np.abs(slices.positions_mm - depth_mm).argmin())
    if deviation_mm > _get_tolerance(slices, n):
        msg = (
            f"{label}: ROI '{roi.name}' has a contour that is not parallel to the slices (its points lie up to "
            f"{deviation_mm:.2f} mm off a plane parallel to them); expected contours drawn on this series. Give the "
            "series on which it was drawn."
        )
        raise VolumeError(msg)
    return depth_mm


def _get_tolerance(slices: Slices, n: int) -> float:
    """Less where slices are thinner than the usual tolerance, as under a microscope."""
    return min(_PLANE_TOLERANCE_MM, float(slices.reaches_mm[n]) / 2)


def _to_pixels(contour: Points, from_lps: Points) -> Points:
    pixels: Points = contour @ from_lps[:2, :3].T + from_lps[:2, 3]
    return pixels


def _count_skipped(mask: Mask) -> int:
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    return int(filled[-1] - filled[0] + 1 - filled.size)


def _check_same_space(dataset: Any, rois: Iterable[Roi], stack: DicomStack, label: str) -> list[str]:
    """Refuse contours that belong elsewhere; gives a note where they were drawn on another series of the same space."""
    series = f"the series of {stack.frames[0].file}"
    own_uid = stack.frame_of_reference_uid
    with _explain_failures(label):
        is_own_series = bool(stack.series_uid) and stack.series_uid in set(_iterate_referenced_series(dataset))
    for roi in rois:
        if own_uid and roi.frame_of_reference_uid not in ("", own_uid):
            msg = (
                f"{label}: ROI '{roi.name}' lies in another frame of reference than {series}: their coordinates cannot be "
                "compared. Give the series on which it was drawn, or register the two first."
            )
            raise GeometryError(msg)
        if not is_own_series and not (own_uid and roi.frame_of_reference_uid):
            msg = (
                f"{label}: nothing says that ROI '{roi.name}' belongs to {series} (no frame of reference, and another or "
                "no referenced series). Give the series on which it was drawn."
            )
            raise GeometryError(msg)
    if is_own_series:
        return []
    return [f"{label} was drawn on another series than {series}; both share one frame of reference, so it was used."]


# ---- parsing ---------------------------------------------------------------------------------------------------------


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
    with _explain_failures(label):
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
    except (ValueError, TypeError) as error:
        msg = f"{where} has a contour with text among its coordinates; expected numbers. Export it again."
        raise VolumeError(msg) from error


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


def _iterate_referenced_series(dataset: Any) -> Iterator[str]:
    for frame_of_reference in _get_items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in _get_items(frame_of_reference, "RTReferencedStudySequence"):
            for series in _get_items(study, "RTReferencedSeriesSequence"):
                if uid := str(series.get("SeriesInstanceUID") or ""):
                    yield uid


def _get_items(dataset: Any, keyword: str) -> list[Any]:
    return list(dataset.get(keyword) or [])


def _get_int(item: Any, keyword: str) -> int:
    return int(item[keyword].value)


def _check_whole(dataset: Any, label: str) -> None:
    """pydicom ends in silence where a file was cut inside an element."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a Dataset decodes its elements
        element = dataset.get_item(tag)
        if element is None or not element.is_raw or element.length == _UNDEFINED_LENGTH:
            continue
        if len(element.value or b"") != element.length:
            msg = f"{label} is cut short. Copy it from its source again."
            raise VolumeError(msg)


def _describe(source: Any) -> str:
    if isinstance(source, DicomFile):
        return str(source)
    name = getattr(source, "filename", None)
    return str(name) if isinstance(name, (str, Path)) and str(name) else "The RT structure set"


@contextlib.contextmanager
def _explain_failures(label: str) -> Iterator[None]:
    """One line for whatever pydicom meets in a damaged file; its own messages quote values, which may name a patient."""
    try:
        with quiet_pydicom():
            yield
    except MedunetError:
        raise
    except Exception as error:  # struct.error, EOFError, KeyError, ValueError, NotImplementedError, ...
        msg = f"{label} is a damaged RT structure set ({type(error).__name__} while reading it). Export it again."
        raise VolumeError(msg) from error
