"""A DICOM SEG as a file: its segments, where each frame lies, and the decoding of frames when they are asked for.

The format is described in DICOM PS3.3, sections A.51 and C.8.20.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import MedunetError, VolumeError
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import (
    Instance,
    describe_file,
    find_number,
    get_numbers,
    get_text,
    open_dataset,
    quiet_pydicom,
    read_instance,
)
from medunet.io.structures import Code
from medunet.palette import Color
from medunet.volume import Affine, Array

SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4": "", "1.2.840.10008.5.1.4.1.1.66.7": "LABELMAP"}
"""SOP classes; the value is the type of segmentation where the class leaves no choice."""
TISSUE = Code(value="85756007", meaning="Tissue")
"""Category and type of a structure without a code, as 3D Slicer does it; a type alone may be tissue on purpose."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
_IN_MEMORY = Path("DICOM segmentation in memory")
_MAX_FRAME_PIXELS = 2**26  # a few bytes of compressed data may promise gigabytes
_MAX_MM = 1e5


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """One segment as its file describes it.

    Attributes:
        number: SegmentNumber, from 1.
        name: SegmentLabel, made unique.
        color: Red, green, blue; None where the file gives none.
        code: Coded type; None where it says no more than "tissue".
        category: Coded category; None as for ``code``.
    """

    number: int
    name: str
    color: Color | None = None
    code: Code | None = None
    category: Code | None = None


def list_segments(source: Path | DicomFile | bytes | Any) -> tuple[SegmentInfo, ...]:
    """What a segmentation holds, without reading voxels.

    Raises:
        VolumeError: If the file is no segmentation, or damaged.
    """
    file, header, _ = _open_header(source)
    with naming_damage(file):
        return _read_segments(header, file, _read_kind(header, file))


@dataclass(frozen=True, eq=False, kw_only=True)
class SegObject:
    """An opened segmentation.

    Attributes:
        file: Where it lies.
        header: Its attributes.
        kind: ``"BINARY"``, ``"FRACTIONAL"`` or ``"LABELMAP"``.
        segments: What its frames can show.
        shape: Rows and columns.
        planes: The distinct places of its frames, ``(column, row, 0, 1)`` -> LPS mm as in `Frame`.
        plane_of_frame: Index into ``planes`` of each frame.
        segment_of_frame: Segment number of each frame; 0 in a labelmap.
        get_frame: Index of a frame -> ``(rows, columns)``: bool, or integers in a labelmap.
    """

    file: DicomFile
    header: Any
    kind: str
    segments: tuple[SegmentInfo, ...]
    shape: tuple[int, int]
    planes: tuple[Affine, ...]
    plane_of_frame: tuple[int, ...]
    segment_of_frame: tuple[int, ...]
    get_frame: Callable[[int], Array]


def open_seg(source: Path | DicomFile | bytes | Any) -> SegObject:
    """Open a segmentation; its frames are decoded when they are asked for.

    Raises:
        VolumeError: If the file is no segmentation of a patient, or damaged.
    """
    file, header, instance = _open_header(source)
    with naming_damage(file):
        kind = _read_kind(header, file)
        segments = _read_segments(header, file, kind)
        shape, num_frames = _read_shape(header, file)
        planes, plane_of_frame, segment_of_frame = _read_frame_table(header, file, kind, num_frames)
        unknown = set(segment_of_frame) - {0} - {segment.number for segment in segments}
        if unknown:
            msg = f"{file} has frames of segment {min(unknown)}, which it does not describe. Export it again."
            raise VolumeError(msg)
        get_frame = _open_frames(header if instance is None else _read_whole(instance), file, kind, shape, num_frames)
    return SegObject(
        file=file,
        header=header,
        kind=kind,
        segments=segments,
        shape=shape,
        planes=planes,
        plane_of_frame=plane_of_frame,
        segment_of_frame=segment_of_frame,
        get_frame=get_frame,
    )


@contextlib.contextmanager
def naming_damage(file: DicomFile) -> Iterator[None]:
    """One error for whatever pydicom meets in a damaged file; its own texts may quote a patient's name."""
    try:
        with quiet_pydicom():
            yield
    except MedunetError:
        raise
    except Exception as error:  # struct.error, KeyError, AttributeError, RecursionError, decoders' RuntimeError, ...
        msg = (
            f"{file} is a damaged DICOM segmentation, or of a kind that medunet does not read ({type(error).__name__} "
            "while reading it). Export it again."
        )
        raise VolumeError(msg) from None


def _open_header(source: Any) -> tuple[DicomFile, Any, Instance | None]:
    """The file, its attributes, and where the pixel data are unless they are among the attributes."""
    if isinstance(source, bytes):
        source = DicomFile(_IN_MEMORY, content=source)
    elif isinstance(source, (str, Path)):
        source = DicomFile(Path(source))
    if not isinstance(source, DicomFile):
        return DicomFile(_IN_MEMORY), source, None
    instance = read_instance(source)
    if instance is None:
        msg = f"{source} is no DICOM file but {describe_file(source)}; expected a DICOM segmentation. Check the path."
        raise VolumeError(msg)
    return source, instance.header, instance


def _read_whole(instance: Instance) -> Any:
    import pydicom

    with open_dataset(instance.file) as stream:
        return pydicom.dcmread(stream, force=True)


def _read_kind(header: Any, file: DicomFile) -> str:
    sop_class = get_text(header, "SOPClassUID") or get_text(getattr(header, "file_meta", {}), "MediaStorageSOPClassUID")
    if sop_class not in SEG_CLASSES:
        from pydicom.uid import UID

        uid = UID(sop_class)
        found = uid.name if uid.name != sop_class else "an object of an unknown SOP class"
        msg = f"{file} is no DICOM segmentation but {found}; expected Segmentation Storage. Give the segmentation."
        raise VolumeError(msg)
    kind = SEG_CLASSES[sop_class] or get_text(header, "SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        msg = f"{file} has an unknown SegmentationType; expected BINARY, FRACTIONAL or LABELMAP. Export it again."
        raise VolumeError(msg)
    return kind


def _read_shape(header: Any, file: DicomFile) -> tuple[tuple[int, int], int]:
    rows, columns = (int(get_numbers(header, keyword, 1, file)[0]) for keyword in ("Rows", "Columns"))
    num_frames = int(get_numbers(header, "NumberOfFrames", 1, file)[0])
    if min(rows, columns, num_frames) < 1:
        msg = f"{file} has {num_frames} frames of {rows}x{columns}; expected one frame or more with pixels. It is damaged."
        raise VolumeError(msg)
    return (rows, columns), num_frames


def _read_segments(header: Any, file: DicomFile, kind: str) -> tuple[SegmentInfo, ...]:
    """The segments; value 0 of a labelmap is its background."""
    segments: list[SegmentInfo] = []
    items = header.get("SegmentSequence")
    if not items:
        msg = f"{file} describes no segments (SegmentSequence); expected one or more. Export it again."
        raise VolumeError(msg)
    for item in items:
        number = int(get_numbers(item, "SegmentNumber", 1, file)[0])
        if kind == "LABELMAP" and number == 0:
            continue
        if number < 1 or number in [segment.number for segment in segments]:
            msg = f"{file} describes segment {number} twice or below 1; expected numbers of their own. Export it again."
            raise VolumeError(msg)
        category, code = (_read_code(item, f"SegmentedProperty{part}CodeSequence") for part in ("Category", "Type"))
        is_uncoded = category == code == TISSUE
        segments.append(
            SegmentInfo(
                number=number,
                name=_find_name(item, number, {segment.name for segment in segments}, file),
                color=_read_color(item, file),
                code=None if is_uncoded else code,
                category=None if is_uncoded else category,
            )
        )
    return tuple(segments)


def _find_name(item: Any, number: int, taken: set[str], file: DicomFile) -> str:
    label = get_text(item, "SegmentLabel").strip() or f"segment {number}"
    name, count = label, 1
    while name in taken:
        count += 1
        name = f"{label} ({count})"
    if count > 1:
        logger.warning("%s has several segments named '%s'; segment %d is called '%s'.", file, label, number, name)
    return name


def _read_code(item: Any, keyword: str) -> Code | None:
    codes = item.get(keyword)
    if not codes:
        return None
    value = next(
        (text for name in ("CodeValue", "LongCodeValue", "URNCodeValue") if (text := get_text(codes[0], name))), ""
    )
    if not value:
        return None
    meaning = get_text(codes[0], "CodeMeaning") or value
    return Code(value=value, meaning=meaning, scheme=get_text(codes[0], "CodingSchemeDesignator") or "SCT")


def _read_color(item: Any, file: DicomFile) -> Color | None:
    """DICOM stores CIELab, each part as 16 bits (PS3.3 C.10.7.1.1)."""
    if item.get("RecommendedDisplayCIELabValue") in (None, ""):
        return None
    from highdicom.color import CIELabColor

    lightness, a, b = get_numbers(item, "RecommendedDisplayCIELabValue", 3, file)
    lab = (lightness * 100 / 0xFFFF, a * 255 / 0xFFFF - 128, b * 255 / 0xFFFF - 128)
    red, green, blue = (min(255, max(0, int(part))) for part in CIELabColor(*lab).to_rgb())
    return red, green, blue


def _read_frame_table(
    header: Any, file: DicomFile, kind: str, num_frames: int
) -> tuple[tuple[Affine, ...], tuple[int, ...], tuple[int, ...]]:
    """Distinct planes, and of each frame its plane and its segment."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(per_frame) != num_frames:
        msg = f"{file} promises {num_frames} frames and describes {len(per_frame)}; expected as many. Export it again."
        raise VolumeError(msg)
    shared = (header.get("SharedFunctionalGroupsSequence") or [])[:1]
    known: dict[int, list[float]] = {}

    def read(group: Any, sequence: str, keyword: str, count: int) -> list[float]:
        item = find_item((group, *shared), sequence, file)
        if id(item) not in known:  # what frames share is looked at once, not a thousand times
            known[id(item)] = get_numbers(item, keyword, count, file)
        return known[id(item)]

    plane_indices: dict[tuple[float, ...], int] = {}
    plane_of_frame, segment_of_frame = [], []
    for group in per_frame:
        place = (
            *read(group, "PlanePositionSequence", "ImagePositionPatient", 3),
            *read(group, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
            *read(group, "PixelMeasuresSequence", "PixelSpacing", 2),
        )
        plane_of_frame.append(plane_indices.setdefault(place, len(plane_indices)))
        is_labelmap = kind == "LABELMAP"
        number = 0 if is_labelmap else read(group, "SegmentIdentificationSequence", "ReferencedSegmentNumber", 1)[0]
        segment_of_frame.append(int(number))
    seen = set(zip(plane_of_frame, segment_of_frame, strict=True))
    if len(seen) != num_frames:
        msg = f"{file} has {num_frames - len(seen)} frame(s) of one segment at a place that has one already. Export it again."
        raise VolumeError(msg)
    planes = tuple(_build_plane(numbers, file) for numbers in plane_indices)
    return planes, tuple(plane_of_frame), tuple(segment_of_frame)


def find_item(groups: tuple[Any, ...], sequence: str, file: DicomFile) -> Any:
    """The first item of a sequence, from the first group that has it.

    Raises:
        VolumeError: If none has.
    """
    for group in groups:
        items = group.get(sequence)
        if items:
            return items[0]
    msg = (
        f"{file} has frames without {sequence}; expected one for each frame or for all. Only patients' scans are read."
    )
    raise VolumeError(msg)


def _build_plane(numbers: tuple[float, ...], file: DicomFile) -> Affine:
    position, along_row, along_column = (np.array(numbers[first : first + 3]) for first in (0, 3, 6))
    spacing = numbers[9:]
    lengths = float(np.linalg.norm(along_row)), float(np.linalg.norm(along_column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(along_row @ along_column))) > 1e-3:
        msg = f"{file} has an ImageOrientationPatient that is no pair of unit vectors at right angles. Export it again."
        raise VolumeError(msg)
    if min(spacing) <= 0 or max(spacing) > _MAX_MM or np.abs(position).max() > _MAX_MM:
        msg = f"{file} has a PixelSpacing or ImagePositionPatient that is not positive or beyond {_MAX_MM:g} mm. Export it again."
        raise VolumeError(msg)
    plane = np.eye(4)
    plane[:3, 0] = along_row / lengths[0] * spacing[1]  # PixelSpacing: between rows first, between columns second
    plane[:3, 1] = along_column / lengths[1] * spacing[0]
    plane[:3, 2] = np.cross(along_row / lengths[0], along_column / lengths[1])
    plane[:3, 3] = position
    return plane


# ---- pixels ------------------------------------------------------------------------------------------------------


def _open_frames(
    dataset: Any, file: DicomFile, kind: str, shape: tuple[int, int], num_frames: int
) -> Callable[[int], Array]:
    bits = int(get_numbers(dataset, "BitsAllocated", 1, file)[0])
    if bits not in ((1, 8) if kind == "BINARY" else (8,) if kind == "FRACTIONAL" else (8, 16)):
        msg = f"{file} is a {kind.lower()} segmentation of {bits} bits, which the standard does not know. Export it again."
        raise VolumeError(msg)
    if "PixelData" not in dataset:
        msg = f"{file} ends before its pixel data: it is cut short. Copy it from its source again."
        raise VolumeError(msg)
    threshold = _find_threshold(dataset, file) if kind == "FRACTIONAL" else 1
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "") or _NATIVE[1])
    if syntax in _NATIVE:
        read = _open_native(dataset.PixelData, file, bits, shape, num_frames)
        return read if kind == "LABELMAP" or bits == 1 else lambda index: read(index) >= threshold
    return _decode(dataset, file, threshold if kind != "LABELMAP" else None, shape)


def _open_native(
    pixels: bytes, file: DicomFile, bits: int, shape: tuple[int, int], num_frames: int
) -> Callable[[int], Array]:
    size = shape[0] * shape[1]
    expected = math.ceil(num_frames * size * bits / 8)
    if len(pixels) < expected:
        msg = (
            f"{file} is cut short: {num_frames} frames of {shape[0]}x{shape[1]} need {expected} bytes of pixel data, it "
            f"has {len(pixels)}. Copy it from its source again."
        )
        raise VolumeError(msg)
    if bits > 1:
        stored = np.frombuffer(pixels, dtype="<u2" if bits == 16 else np.uint8, count=num_frames * size)
        frames: Array = stored.reshape(num_frames, *shape)
        return lambda index: frames[index]
    packed = np.frombuffer(pixels, dtype=np.uint8)

    def unpack(index: int) -> NDArray[np.bool_]:
        # Frames follow each other without a gap: one of 7 x 9 pixels starts in the middle of a byte.
        first, start = divmod(index * size, 8)
        last = math.ceil((index + 1) * size / 8)
        unpacked = np.unpackbits(packed[first:last], count=start + size, bitorder="little")
        return unpacked[start:].view(np.bool_).reshape(shape)

    return unpack


def _decode(dataset: Any, file: DicomFile, threshold: int | None, shape: tuple[int, int]) -> Callable[[int], Array]:
    """Decode compressed frames; masks are kept one bit per pixel, because fractional ones take eight times as much."""
    from pydicom.pixels import iter_pixels

    size = shape[0] * shape[1]
    if size > _MAX_FRAME_PIXELS:
        msg = f"{file} has compressed frames of {shape[0]}x{shape[1]}; expected those of a scan. Decompress it by other means."
        raise VolumeError(msg)
    if threshold is None:
        labels = [np.array(frame).reshape(shape) for frame in iter_pixels(dataset, raw=True)]
        return lambda index: labels[index]
    packed = [np.packbits(np.asarray(frame) >= threshold) for frame in iter_pixels(dataset, raw=True)]
    return lambda index: np.unpackbits(packed[index], count=size).view(np.bool_).reshape(shape)


def _find_threshold(dataset: Any, file: DicomFile) -> int:
    """Half of the maximum counts as inside."""
    maximum = find_number(dataset, "MaximumFractionalValue", file) or 0
    if not 1 <= maximum <= 255:
        msg = f"{file} has MaximumFractionalValue = {maximum:g}; expected 1 to 255. Export it again."
        raise VolumeError(msg)
    threshold = math.ceil(maximum / 2)
    logger.warning(
        "%s is a fractional segmentation; values from %d of %g are taken as inside.", file, threshold, maximum
    )
    return threshold
