"""`Frame`: one slice of a DICOM image, from a file of its own or out of a multi-frame file, with its place checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import Instance, find_number, find_numbers, get_items, get_numbers, get_text, quiet_pydicom
from medunet.io.dicom.mosaic import is_mosaic, locate_tiles
from medunet.volume import Affine, Array

_UNIT_TOLERANCE = 1e-3  # decimal strings of three digits give cosines that are off by half of this
_MAX_MM = 1e5
FLOAT_TAGS = (0x7FE00008, 0x7FE00009)
NATIVE_SYNTAXES = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.1.99": "<",  # deflated: inflated before it is read
    "1.2.840.10008.1.2.2": ">",
}
"""Uncompressed transfer syntaxes and their byte order."""
_BOMB_BYTES, _BOMB_RATIO = 2**25, 1000


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the stored values of a file are to be understood.

    Attributes:
        samples: Values per pixel; 1 for an intensity.
        bits_allocated: Bits per value in the file.
        bits_stored: Bits that belong to the value.
        high_bit: The highest of them.
        is_signed: Whether they are in two's complement.
        photometry: PhotometricInterpretation.
        padding: Lowest and highest value of padding, with all allocated bits; None without.
    """

    samples: int = 1
    bits_allocated: int = 16
    bits_stored: int = 16
    high_bit: int = 15
    is_signed: bool = False
    photometry: str = "MONOCHROME2"
    padding: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One slice.

    Attributes:
        file: Where it lies.
        header: The file's attributes without pixel data (a pydicom ``Dataset``); shared by the frames of one file.
        index: Number of the frame within the file, from 0.
        shape: Rows and columns.
        plane: ``(column, row, 0, 1)`` -> LPS mm, ``(4, 4)``: the first column of the matrix is the step from one
            column to the next, the second from one row to the next, the third the unit normal, the fourth the centre
            of the first pixel.
        slope: Stored value times ``slope`` plus ``intercept`` is the intensity.
        intercept: See ``slope``.
        has_rescale: Whether the file says slope and intercept; else they are 1 and 0.
        instance: Where the pixel data lie within the file.
        pixels: How they are stored.
        tile: Row and column of the first pixel within the picture, for a slice of a mosaic.
        groups: Where the frame's attributes are looked up: its own group, the shared one, the file.
    """

    file: DicomFile
    header: Any
    index: int
    shape: tuple[int, int]
    plane: Affine
    slope: float = 1.0
    intercept: float = 0.0
    has_rescale: bool = False
    instance: Instance | None = None
    pixels: PixelFormat = PixelFormat()
    tile: tuple[int, int] | None = None
    groups: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.tile is not None:
            return f"{self.file} (tile at row {self.tile[0]}, column {self.tile[1]})"
        return str(self.file) if get_num_frames(self.header) is None else f"{self.file} (frame {self.index + 1})"

    @property
    def position(self) -> Array:
        """Centre of the first pixel, LPS mm."""
        return self.plane[:3, 3]

    @property
    def normal(self) -> Array:
        """Unit vector, cross product of the directions of a row and of a column."""
        return self.plane[:3, 2]

    @property
    def spacing(self) -> tuple[float, float]:
        """Distance of columns (along ``i``) and of rows (along ``j``), mm."""
        return float(np.linalg.norm(self.plane[:3, 0])), float(np.linalg.norm(self.plane[:3, 1]))


def get_num_frames(header: Any) -> int | None:
    """NumberOfFrames; None for a single-frame file."""
    with quiet_pydicom():
        try:
            value = header.get("NumberOfFrames")
            return None if value in (None, "") else int(value)
        except (ValueError, TypeError):
            return -1


def read_frames(instance: Instance) -> list[Frame]:
    """The slices of one file.

    Raises:
        VolumeError: If an attribute that places the voxels is missing or impossible, or pixel data are cut short.
    """
    header, file = instance.header, instance.file
    shape = _read_shape(instance)
    num_frames = get_num_frames(header)
    per_frame = get_items(header, "PerFrameFunctionalGroupsSequence", file)
    pixels = _read_pixel_format(instance)
    _check_pixel_data(instance, shape, num_frames, pixels)
    if not per_frame:
        if num_frames is not None and num_frames != 1:
            msg = (
                f"{file} holds {num_frames} frames without saying where each lies (no per-frame functional groups); "
                "expected one position per frame. Convert it with the vendor's tool."
            )
            raise VolumeError(msg)
        frame = _read_frame(instance, shape, 0, (header,), pixels)
        return _split_mosaic(frame) if is_mosaic(header) else [frame]
    if num_frames is None or len(per_frame) != num_frames:
        msg = (
            f"{file} says NumberOfFrames = {num_frames} and describes {len(per_frame)} frames; expected as many. "
            "It is damaged; export it again."
        )
        raise VolumeError(msg)
    shared = get_items(header, "SharedFunctionalGroupsSequence", file)
    return [
        _read_frame(instance, shape, index, (group, *shared[:1], header), pixels)
        for index, group in enumerate(per_frame)
    ]


def _read_shape(instance: Instance) -> tuple[int, int]:
    rows = get_numbers(instance.header, "Rows", 1, instance.file)[0]
    columns = get_numbers(instance.header, "Columns", 1, instance.file)[0]
    if rows < 1 or columns < 1:
        msg = f"{instance.file} has {rows:g} rows and {columns:g} columns; expected positive numbers. It is damaged."
        raise VolumeError(msg)
    return int(rows), int(columns)


def _read_pixel_format(instance: Instance) -> PixelFormat:
    file, header = instance.file, instance.header
    bits = int(get_numbers(header, "BitsAllocated", 1, file)[0])
    if bits not in (8, 16, 32, 64):
        msg = f"{file} has BitsAllocated = {bits}; expected 8, 16, 32 or 64. It is damaged, or no image."
        raise VolumeError(msg)
    if instance.pixel_tag in FLOAT_TAGS:
        return PixelFormat(bits_allocated=bits, photometry=get_text(header, "PhotometricInterpretation"))
    stored = int(get_numbers(header, "BitsStored", 1, file)[0])
    high = find_number(header, "HighBit", file)
    high_bit = stored - 1 if high is None else int(high)
    if not 1 <= stored <= bits or not stored - 1 <= high_bit < bits:
        msg = f"{file} stores {stored} bits up to bit {high_bit} in {bits}; expected them to fit. It is damaged."
        raise VolumeError(msg)
    representation = get_numbers(header, "PixelRepresentation", 1, file)[0]
    samples = find_number(header, "SamplesPerPixel", file)
    if representation not in (0, 1) or (samples is not None and samples < 1):
        msg = (
            f"{file} has PixelRepresentation = {representation:g} and SamplesPerPixel = {samples or 0:g}; expected 0 or 1, "
            "and 1 or more. It is damaged."
        )
        raise VolumeError(msg)
    is_signed = representation == 1
    return PixelFormat(
        samples=int(samples or 1),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=high_bit,
        is_signed=is_signed,
        photometry=get_text(header, "PhotometricInterpretation"),
        padding=_read_padding(instance, bits, is_signed=is_signed),
    )


def _read_padding(instance: Instance, bits_allocated: int, *, is_signed: bool) -> tuple[int, int] | None:
    """Lowest and highest padding value as bit patterns of the file: some writers store -2000 as 63536, or the reverse."""
    values = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        number = find_number(instance.header, keyword, instance.file)
        if number is not None:
            pattern = int(number) % 2**bits_allocated
            values.append(
                pattern - 2**bits_allocated if is_signed and pattern >= 2 ** (bits_allocated - 1) else pattern
            )
    return (min(values), max(values)) if values else None


def _check_pixel_data(instance: Instance, shape: tuple[int, int], num_frames: int | None, pixels: PixelFormat) -> None:
    """Hold the size that the attributes promise against the bytes that are there."""
    file = instance.file
    if not instance.pixel_tag:
        msg = f"{file} ends before its pixel data: it is cut short, or not an image. Copy it from its source again."
        raise VolumeError(msg)
    if num_frames is not None and num_frames < 1:
        msg = f"{file} has {num_frames} frames; expected 1 or more. It is damaged."
        raise VolumeError(msg)
    expected = shape[0] * shape[1] * pixels.samples * (pixels.bits_allocated // 8) * (num_frames or 1)
    if instance.pixel_length < 0:
        _check_encapsulated(instance, expected, num_frames or 1)
        return
    found = min(instance.pixel_length, instance.available)
    surplus = found - expected
    # Less than a row or a column is padding; more is another number of rows or columns.
    if surplus > 1 and surplus >= min(shape) * (pixels.bits_allocated // 8):
        msg = (
            f"{file} holds {found} bytes of pixel data, {num_frames or 1} frame(s) of {shape[0]}x{shape[1]} need {expected}; "
            "its Rows or Columns are wrong. Export it again."
        )
        raise VolumeError(msg)
    if found < expected:
        msg = (
            f"{file} is cut short: {num_frames or 1} frame(s) of {shape[0]}x{shape[1]} need {expected} bytes of pixel "
            f"data, it has {found}. Copy it from its source again."
        )
        raise VolumeError(msg)


def _check_encapsulated(instance: Instance, num_bytes: int, num_frames: int) -> None:
    """What can be known of compressed data before they are decoded."""
    file = instance.file
    if instance.transfer_syntax in NATIVE_SYNTAXES:
        msg = (
            f"{file} holds compressed pixel data and a transfer syntax that says uncompressed, or none; expected the one that "
            "it was compressed with. Export it again."
        )
        raise VolumeError(msg)
    if instance.available < 8 * num_frames:
        msg = f"{file} promises {num_frames} frames in {instance.available} bytes; it is cut short or damaged."
        raise VolumeError(msg)
    if num_bytes > _BOMB_BYTES and num_bytes > _BOMB_RATIO * instance.available:
        msg = (
            f"{file} would decode from {instance.available} to {num_bytes} bytes; expected less than {_BOMB_RATIO} times as "
            "many. Decode it by other means if it is genuine."
        )
        raise VolumeError(msg)


def _read_frame(
    instance: Instance, shape: tuple[int, int], index: int, groups: tuple[Any, ...], pixels: PixelFormat
) -> Frame:
    file = instance.file
    orientation = _find(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    position = _find(groups, "PlanePositionSequence", "ImagePositionPatient")
    measures = _find(groups, "PixelMeasuresSequence", "PixelSpacing")
    plane = _build_plane(
        get_numbers(position, "ImagePositionPatient", 3, file),
        get_numbers(orientation, "ImageOrientationPatient", 6, file),
        get_numbers(measures, "PixelSpacing", 2, file),
        file,
    )
    rescale = _read_rescale(_find(groups, "PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept"), file)
    slope, intercept = rescale or (1.0, 0.0)
    return Frame(
        file=file,
        header=instance.header,
        index=index,
        shape=shape,
        plane=plane,
        slope=slope,
        intercept=intercept,
        has_rescale=rescale is not None,
        instance=instance,
        pixels=pixels,
        groups=groups,
    )


def _split_mosaic(frame: Frame) -> list[Frame]:
    tiles = locate_tiles(frame.header, frame.plane, frame.shape, frame.file)
    num_tiles = math.ceil(math.sqrt(len(tiles)))
    shape = (frame.shape[0] // num_tiles, frame.shape[1] // num_tiles)
    return [replace(frame, plane=plane, shape=shape, tile=corner) for plane, corner in tiles]


def _find(groups: tuple[Any, ...], sequence: str, *keywords: str) -> Any:
    """The first dataset among per-frame group, shared group and top level that has a value for an attribute; else the last."""
    for group in groups:
        items = get_items(group, sequence, None)
        for holder in (*items[:1], group):
            if any(_has_value(holder, keyword) for keyword in keywords):
                return holder
    return groups[-1]


def _has_value(holder: Any, keyword: str) -> bool:
    if keyword not in holder:
        return False
    element = holder.get_item(keyword)
    return element is not None and element.value not in (None, "", b"") and str(element.value) != "[]"


def _build_plane(position: list[float], orientation: list[float], spacing: list[float], file: DicomFile) -> Affine:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if (
        abs(lengths[0] - 1) > _UNIT_TOLERANCE
        or abs(lengths[1] - 1) > _UNIT_TOLERANCE
        or abs(row @ column) > _UNIT_TOLERANCE
    ):
        msg = (
            f"{file} has an ImageOrientationPatient of lengths {lengths[0]:.4g} and {lengths[1]:.4g} and cosine "
            f"{float(row @ column):.3g}; expected two unit vectors at right angles. Export the series again."
        )
        raise VolumeError(msg)
    row = row / lengths[0]
    column = column - (column @ row) * row  # rounding of the decimal strings only
    column = column / np.linalg.norm(column)
    if min(spacing) <= 0 or max(spacing) > _MAX_MM:
        msg = f"{file} has PixelSpacing {spacing[0]:g}, {spacing[1]:g}; expected positive millimetres. Export the series again."
        raise VolumeError(msg)
    if max(map(abs, position)) > _MAX_MM:
        msg = f"{file} has an ImagePositionPatient {max(map(abs, position)):g} mm away; expected less than {_MAX_MM:g}."
        raise VolumeError(msg)
    plane = np.eye(4)
    plane[:3, 0] = row * spacing[1]  # PixelSpacing: between rows first, between columns second
    plane[:3, 1] = column * spacing[0]
    plane[:3, 2] = np.cross(row, column)
    plane[:3, 3] = position
    return plane


def _find_one(holder: Any, keyword: str, file: DicomFile) -> float | None:
    numbers = find_numbers(holder, keyword, file)
    if numbers is not None and len(numbers) > 1:
        msg = f"{file} has {len(numbers)} values in {keyword}; expected one. Export the series again."
        raise VolumeError(msg)
    return None if numbers is None else numbers[0]


def _read_rescale(holder: Any, file: DicomFile) -> tuple[float, float] | None:
    slope = _find_one(holder, "RescaleSlope", file)
    intercept = _find_one(holder, "RescaleIntercept", file)
    if slope == 0:
        msg = f"{file} has RescaleSlope = 0, which makes every voxel the same; expected another number."
        raise VolumeError(msg)
    if slope is None and intercept is None:
        return None
    if slope is None or intercept is None:
        missing = "RescaleSlope" if slope is None else "RescaleIntercept"
        msg = f"{file} has no {missing} beside its partner; expected both or none. Export the series again."
        raise VolumeError(msg)
    return slope, intercept
