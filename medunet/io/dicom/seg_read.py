"""DICOM SEG to `StructureSet`: binary, fractional and labelmap segmentations, on the grid of a scan or on their own.

A segmentation stores frames, each with a place of its own and often without the empty ones. Every frame must lie on a
slice of the scan or on a plane of its grid, in whatever axis order or direction; nothing is resampled. The format is
described in DICOM PS3.3, sections A.51 and C.8.20.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError, LabelError, MedunetError, VolumeError
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
from medunet.io.dicom.stack import JITTER_MM, TILT_DEGREES, DicomStack
from medunet.io.structures import PALETTE, Code, Color, Structure, StructureSet, from_masks
from medunet.volume import GRID_TOLERANCE_MM, Affine, Array, Shape3, Volume, describe_grid

SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4": "", "1.2.840.10008.5.1.4.1.1.66.7": "LABELMAP"}
"""SOP classes; the value is the type of segmentation where the class leaves no choice."""
TISSUE = Code(value="85756007", meaning="Tissue")
"""Category and type of a structure without a code, as 3D Slicer does it; a type alone may be tissue on purpose."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
_IN_MEMORY = Path("DICOM segmentation in memory")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MAX_SLICES = 4096  # two metres at half a millimetre; positions that need more are wrong
_MAX_FRAME_PIXELS = 2**26  # a few bytes of compressed data may promise gigabytes
_MAX_MM = 1e5

_log = logging.getLogger(__name__)


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


def read_seg(
    source: Path | DicomFile | bytes | Any,
    stack: DicomStack | None = None,
    *,
    names: Collection[str] | None = None,
) -> StructureSet:
    """Read a segmentation.

    Args:
        source: A file, its bytes, or a pydicom ``Dataset``.
        stack: The scan on whose grid the masks are wanted. Without it the grid is the one that the segmentation's own
            frames make: slices rising along their normal, from the first frame to the last; slices between them that
            the file leaves out are empty.
        names: Read only these segments; all if None.

    Returns:
        One structure per segment, in the order of the file, those without a voxel too. Fractional segmentations are
        cut at half their maximum, which is logged.

    Raises:
        VolumeError: If the file is no segmentation of a patient, or damaged.
        GeometryError: If it lies in another frame of reference or on another grid than the stack, or if its own
            frames make no regular grid.
        LabelError: If a name in ``names`` is not there, or a labelmap holds values that it does not describe.
    """
    seg = open_seg(source)
    segments = _choose(seg, names)
    canvas = place_on_own_grid(seg) if stack is None else place_on_stack(seg, stack)
    if seg.kind == "LABELMAP":
        layers = canvas.finish(read_labelmap(seg, canvas, segments)[np.newaxis])
        structures = tuple(
            Structure(
                name=segment.name,
                values=(segment.number,),
                color=segment.color or PALETTE[index % len(PALETTE)],
                code=segment.code,
            )
            for index, segment in enumerate(segments)
        )
        return StructureSet(layers=layers, structures=structures)
    collected = from_masks(
        ((segment.name, mask) for segment, mask in iterate_masks(seg, canvas, segments)),
        Volume(np.broadcast_to(np.uint8(0), (1, *canvas.shape)), np.eye(4)),
        codes={segment.name: segment.code for segment in segments if segment.code is not None},
        colors={segment.name: segment.color for segment in segments if segment.color is not None},
    )
    return StructureSet(layers=canvas.finish(collected.layers.array), structures=collected.structures)


def list_segments(source: Path | DicomFile | bytes | Any) -> tuple[SegmentInfo, ...]:
    """What a segmentation holds, without reading voxels.

    Raises:
        VolumeError: If the file is no segmentation, or damaged.
    """
    file, header, _ = _open_header(source)
    with _naming_damage(file):
        return _read_segments(header, file, _read_kind(header, file))


def _choose(seg: SegObject, names: Collection[str] | None) -> tuple[SegmentInfo, ...]:
    if names is None:
        return seg.segments
    there = [segment.name for segment in seg.segments]
    missing = [name for name in names if name not in there]
    if missing:
        shown = ", ".join(f"'{name}'" for name in there[:20]) + (", ..." if len(there) > 20 else "")
        msg = f"{seg.file} has no segment '{missing[0]}'; it has {shown or 'none'}. Choose among these."
        raise LabelError(msg)
    return tuple(segment for segment in seg.segments if segment.name in names)


# ---- the file ----------------------------------------------------------------------------------------------------


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
    with _naming_damage(file):
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
def _naming_damage(file: DicomFile) -> Iterator[None]:
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
        _log.warning("%s has several segments named '%s'; segment %d is called '%s'.", file, label, number, name)
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
        item = _find_item((group, *shared), sequence, file)
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


def _find_item(groups: tuple[Any, ...], sequence: str, file: DicomFile) -> Any:
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
    _log.warning("%s is a fractional segmentation; values from %d of %g are taken as inside.", file, threshold, maximum)
    return threshold


# ---- places ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a frame lies in an array: pixel ``(row, column)`` -> ``origin + row * row_step + column * column_step``."""

    origin: tuple[int, int, int]
    row_axis: int = 1
    column_axis: int = 2
    is_row_flipped: bool = False
    is_column_flipped: bool = False

    def paste(self, target: Array, frame: Array) -> bool:
        """Put the frame into the array; False where a pixel that is not 0 would fall outside."""
        if self.is_row_flipped:
            frame = frame[::-1]
        if self.is_column_flipped:
            frame = frame[:, ::-1]
        depth_axis = 3 - self.row_axis - self.column_axis
        slices = target.transpose(depth_axis, self.row_axis, self.column_axis)
        depth, row, column = (self.origin[axis] for axis in (depth_axis, self.row_axis, self.column_axis))
        # The part of the frame that lies inside.
        rows = slice(max(0, -row), max(0, min(frame.shape[0], slices.shape[1] - row)))
        columns = slice(max(0, -column), max(0, min(frame.shape[1], slices.shape[2] - column)))
        inside = frame[rows, columns]
        is_there = 0 <= depth < slices.shape[0]
        if not is_there or inside.shape != frame.shape:
            if np.count_nonzero(frame) > (np.count_nonzero(inside) if is_there else 0):
                return False
            if not is_there:
                return True
        slices[depth, row + rows.start : row + rows.stop, column + columns.start : column + columns.stop] = inside
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """Arrays in which frames are collected, and how they become a volume.

    Attributes:
        shape: Of the arrays, ``(slice, row, column)``.
        places: Of each plane of the segmentation.
        affine: Of the volume, RAS+ mm.
        to_grid: One array -> ``(I, J, K)`` of the volume.
        outside: The error for voxels that fall outside.
    """

    shape: Shape3
    places: tuple[_Place, ...]
    affine: Affine
    to_grid: Callable[[Array], Array]
    outside: GeometryError

    def finish(self, layers: Array) -> Volume:
        """Layers ``(L, slice, row, column)`` as a volume."""
        return Volume(np.stack([self.to_grid(layer) for layer in layers]), self.affine)


def iterate_masks(
    seg: SegObject, canvas: Canvas, segments: Collection[SegmentInfo]
) -> Iterator[tuple[SegmentInfo, NDArray[np.bool_]]]:
    """The mask of one segment after the other, ``(slice, row, column)`` of the canvas; a fresh array each."""
    if seg.kind == "LABELMAP":
        labels = read_labelmap(seg, canvas, segments)
        yield from ((segment, labels == segment.number) for segment in segments)
        return
    for segment in segments:
        mask = np.zeros(canvas.shape, dtype=np.bool_)
        for index, number in enumerate(seg.segment_of_frame):
            if number == segment.number:
                frame = seg.get_frame(index)
                if frame.any() and not canvas.places[seg.plane_of_frame[index]].paste(mask, frame):
                    raise canvas.outside
        yield segment, mask


def read_labelmap(seg: SegObject, canvas: Canvas, segments: Collection[SegmentInfo]) -> Array:
    """Labels ``(slice, row, column)`` of the canvas; values of segments that were not chosen become 0."""
    known = np.array([0, *(segment.number for segment in seg.segments)])
    kept = {segment.number for segment in segments}
    dropped = [number for number in known.tolist() if number and number not in kept]
    labels = np.zeros(canvas.shape, dtype=np.uint8 if known.max() < 256 else np.uint16)
    for index, plane in enumerate(seg.plane_of_frame):
        frame = seg.get_frame(index)
        unknown = np.setdiff1d(np.flatnonzero(np.bincount(frame.ravel())), known)
        if unknown.size:
            msg = f"{seg.file} holds value {unknown[0]}, which it does not describe as a segment. Export it again."
            raise LabelError(msg)
        if dropped:
            frame = np.where(np.isin(frame, dropped), 0, frame)
        if not canvas.places[plane].paste(labels, frame):
            raise canvas.outside
    return labels


def place_on_stack(seg: SegObject, stack: DicomStack) -> Canvas:
    """Find the frames of a segmentation on the slices of a scan, or else on its grid.

    Raises:
        GeometryError: If the frame of reference differs, or a frame lies on neither within 0.01 mm.
    """
    own, other = get_text(seg.header, "FrameOfReferenceUID"), stack.frame_of_reference_uid
    if own and other and own != other:
        msg = (
            f"{seg.file} and the scan have different frames of reference (FrameOfReferenceUID ends in ...{own[-8:]} and "
            f"...{other[-8:]}), so the one has no place in the other. Give the scan on which it was drawn."
        )
        raise GeometryError(msg)
    outside = _describe_misfit(seg, stack, "has voxels outside the scan")
    onto_slices = _find_places(seg, lambda plane: _fit_slice(plane, seg.shape, stack))
    if onto_slices is not None:
        shape = (len(stack.frames), *stack.frames[0].shape)
        return Canvas(
            shape=shape, places=onto_slices, affine=stack.affine, to_grid=stack.labels_from_frames, outside=outside
        )
    grid_lps = (_LPS_TO_RAS @ stack.affine)[:, [2, 1, 0, 3]]
    onto_grid = _find_places(seg, lambda plane: _fit(plane, seg.shape, grid_lps))
    if onto_grid is None:
        raise _describe_misfit(seg, stack, "lies on another grid than the scan")
    shape = (stack.shape[2], stack.shape[1], stack.shape[0])
    return Canvas(shape=shape, places=onto_grid, affine=stack.affine, to_grid=_reverse_axes, outside=outside)


def _reverse_axes(array: Array) -> Array:
    return np.ascontiguousarray(array.transpose())


def _find_places(seg: SegObject, fit: Callable[[Affine], _Place | None]) -> tuple[_Place, ...] | None:
    places = []
    for plane in seg.planes:
        place = fit(plane)
        if place is None:
            return None
        places.append(place)
    return tuple(places)


def _fit_slice(plane: Affine, shape: tuple[int, int], stack: DicomStack) -> _Place | None:
    """The place of a frame in ``(slice, row, column)`` of a stack; None if it lies on none of its slices.

    All slices count as parallel to the first, as they do in the volume: their directions may differ by a rounding.
    """
    first = stack.frames[0].plane
    centre = (plane @ [(shape[1] - 1) / 2, (shape[0] - 1) / 2, 0, 1])[:3]
    origins = np.array([frame.plane[:3, 3] for frame in stack.frames])
    nearest = int(np.argmin(np.abs((centre - origins) @ first[:3, 2])))
    place = _fit(plane, shape, np.column_stack([first[:, [2, 1, 0]], stack.frames[nearest].plane[:, 3]]))
    if place is None or place.origin[0] != 0 or {place.row_axis, place.column_axis} != {1, 2}:
        return None
    return replace(place, origin=(nearest, *place.origin[1:]))


def _fit(plane: Affine, shape: tuple[int, int], affine_lps: Affine) -> _Place | None:
    """The place of a frame in an array ``(slice, row, column)``; None if its pixels are not voxels of the array.

    Args:
        plane: ``(column, row, 0, 1)`` -> LPS mm.
        shape: Rows and columns.
        affine_lps: ``(slice, row, column, 1)`` -> LPS mm.
    """
    exact = np.linalg.solve(affine_lps, plane)[:3, [1, 0, 3]]  # voxels per row, per column; the first pixel
    steps, origin = np.rint(exact[:, :2]).astype(int), np.rint(exact[:, 2])
    if np.abs(origin).max() > 1e6 or (np.abs(steps).sum(axis=0) != 1).any() or (np.abs(steps).sum(axis=1) > 1).any():
        return None
    error = exact - np.column_stack([steps, origin])
    last_row, last_column = shape[0] - 1, shape[1] - 1
    corners = np.array([(0, 0, 1), (last_row, 0, 1), (0, last_column, 1), (last_row, last_column, 1)]).T
    errors_mm = np.linalg.norm(affine_lps[:3, :3] @ error @ corners, axis=0)
    if errors_mm.max() > min(GRID_TOLERANCE_MM, 0.1 * float(np.linalg.norm(affine_lps[:3, :3], axis=0).min())):
        return None
    row_axis, column_axis = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    is_row_flipped, is_column_flipped = bool(steps[row_axis, 0] < 0), bool(steps[column_axis, 1] < 0)
    first = origin.astype(int)
    first[row_axis] -= last_row * is_row_flipped
    first[column_axis] -= last_column * is_column_flipped
    return _Place(
        (int(first[0]), int(first[1]), int(first[2])), row_axis, column_axis, is_row_flipped, is_column_flipped
    )


def _describe_misfit(seg: SegObject, stack: DicomStack, problem: str) -> GeometryError:
    try:
        canvas = place_on_own_grid(seg)
        own, shape = canvas.affine, canvas.shape[::-1]
    except MedunetError:
        own, shape = _LPS_TO_RAS @ seg.planes[0], (*seg.shape[::-1], len(seg.planes))
    grid, scan = (
        describe_grid(Volume(np.broadcast_to(np.uint8(0), (1, *shape)), affine))
        for shape, affine in ((shape, own), (stack.shape, stack.affine))
    )
    return GeometryError(f"{seg.file} {problem}: {grid} against {scan}. Give the scan on which it was drawn.")


def place_on_own_grid(seg: SegObject) -> Canvas:
    """The grid that the frames of a segmentation make by themselves.

    Raises:
        GeometryError: If they have several orientations, are tilted, or lie at uneven distances.
    """
    first = seg.planes[0]
    corner = np.array([seg.shape[1] - 1, seg.shape[0] - 1, 0, 0])
    for plane in seg.planes:
        if np.linalg.norm((plane - first) @ corner) > GRID_TOLERANCE_MM:
            msg = f"{seg.file} has frames of several orientations or spacings; expected one. Give the scan that it belongs to."
            raise GeometryError(msg)
    positions = np.array([plane[:3, 3] for plane in seg.planes])
    depths = positions @ first[:3, 2]
    order = np.argsort(depths)
    counts = _count_steps(seg, depths[order])
    slices = np.empty(len(order), dtype=int)
    slices[order] = np.concatenate([[0], np.cumsum(counts)])
    affine = first.copy()
    affine[:3, 3] = positions[order[0]]
    affine[:3, 2] = _find_step(seg, positions[order], int(slices.max()))
    _check_straight(seg, positions, slices, affine)
    return Canvas(
        shape=(int(slices.max()) + 1, *seg.shape),
        places=tuple(_Place((int(k), 0, 0)) for k in slices),
        affine=_LPS_TO_RAS @ affine,
        to_grid=_reverse_axes,
        outside=GeometryError(f"{seg.file} has voxels outside its own grid."),
    )


def _count_steps(seg: SegObject, depths: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many slice distances lie between neighbouring frames: more than one where empty frames were left out."""
    gaps = np.diff(depths)
    if not gaps.size:
        return np.zeros(0, dtype=np.int64)
    stated = _find_stated_spacing(seg, ("SpacingBetweenSlices",))
    for step in (stated, float(np.median(gaps)), float(gaps.min())):
        if step is None or step <= 1e-4:
            continue
        counts = np.maximum(np.rint(gaps / step).astype(np.int64), 1)
        mean = float(gaps.sum() / counts.sum())
        tolerance = np.maximum(0.01 * mean * counts, min(2 * JITTER_MM, 0.2 * mean))
        if (np.abs(gaps - counts * mean) <= tolerance).all() and counts.sum() < _MAX_SLICES:
            return counts
    msg = (
        f"{seg.file} has frames at uneven distances ({gaps.min():.3f} to {gaps.max():.3f} mm); expected multiples of one "
        "distance. Give the scan that it belongs to."
    )
    raise GeometryError(msg)


def _find_stated_spacing(seg: SegObject, keywords: tuple[str, ...]) -> float | None:
    groups = [seg.header.PerFrameFunctionalGroupsSequence[0], *(seg.header.get("SharedFunctionalGroupsSequence") or [])]
    with _naming_damage(seg.file):
        item = _find_item(tuple(groups), "PixelMeasuresSequence", seg.file)
        for keyword in keywords:
            value = abs(find_number(item, keyword, seg.file) or 0)
            if value > 0:
                return value
    return None


def _find_step(seg: SegObject, positions: NDArray[np.float64], num_steps: int) -> NDArray[np.float64]:
    """From one slice to the next, LPS mm; frames at one place only say it in words, if at all."""
    if num_steps:
        step: NDArray[np.float64] = (positions[-1] - positions[0]) / num_steps
        return step
    thickness = _find_stated_spacing(seg, ("SpacingBetweenSlices", "SliceThickness"))
    if thickness is None:
        thickness = 1.0
        _log.warning("%s has one slice and does not say how thick it is; 1 mm is assumed.", seg.file)
    return np.asarray(seg.planes[0][:3, 2] * thickness)


def _check_straight(seg: SegObject, positions: NDArray[np.float64], slices: NDArray[np.int64], affine: Affine) -> None:
    """Refuse frames that are shifted within their planes; a slight even drift is kept as a sheared affine, as in scans."""
    step, normal = affine[:3, 2], seg.planes[0][:3, 2]
    tilt_degrees = math.degrees(math.acos(min(1.0, abs(float(step @ normal)) / float(np.linalg.norm(step)))))
    deviation_mm = float(np.linalg.norm(affine[:3, 3] + np.outer(slices, step) - positions, axis=1).max())
    if tilt_degrees > TILT_DEGREES or deviation_mm > max(4 * JITTER_MM, 0.01 * float(np.linalg.norm(step))):
        msg = (
            f"{seg.file} has frames that are tilted by {tilt_degrees:.1f} degrees or {deviation_mm:.2f} mm off a straight "
            "path, which make no rectangular grid. Give the scan that it belongs to."
        )
        raise GeometryError(msg)
