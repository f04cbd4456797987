"""Stored DICOM pixels to intensities: decoding, stray bits, rescale of every slice, padding.

Uncompressed data are read straight from their place in the file; compressed ones are decoded by pydicom and its
plugins. MONOCHROME1 says how to display a picture and leaves its values alone: it is not inverted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medunet.device import measure_free_memory
from medunet.errors import VolumeError
from medunet.io.dicom.frames import NATIVE_SYNTAXES, Frame
from medunet.io.dicom.header import Instance, get_numbers, open_dataset, quiet_pydicom
from medunet.io.dicom.stack import DicomStack
from medunet.io.dicom.stream_size import check_stream_sizes
from medunet.volume import Array

_CODEC_PACKAGES = {
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}
_COLOUR_KINDS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_FLOAT_TYPES = {0x7FE00008: "f4", 0x7FE00009: "f8"}


def read_voxels(stack: DicomStack) -> tuple[Array, list[str]]:
    """Intensities of a stack on the grid of its volume.

    Returns:
        ``(1, I, J, K)``, int16 or uint16 where every rescaled value is a whole number that fits, else float32 (int32
        for whole numbers beyond float32); and notes.

    Raises:
        VolumeError: If pixel data are damaged, or encoded in a way that no installed package decodes.
    """
    check_photometry(list(stack.frames))
    dtype = _choose_dtype(stack)
    num_bytes = int(np.prod(stack.shape, dtype=np.float64)) * dtype.itemsize
    free = measure_free_memory()
    if num_bytes > free:
        msg = (
            f"The series in {stack.frames[0].file.path.parent} needs {num_bytes / 2**30:.1f} GiB of memory; "
            f"{free / 2**30:.1f} GiB are free. Use a machine with more memory."
        )
        raise VolumeError(msg)
    with _FrameReader(stack.frames) as reader:
        slices, notes = _read_slices(stack, reader, dtype)
    voxels = slices.transpose(2, 1, 0) if stack.regrid is None else _regrid(stack, slices)
    return voxels[None], notes


def read_stored(frame: Frame) -> Array:
    """The stored values of one slice ``(rows, columns)``, stray bits removed, not rescaled."""
    with _FrameReader((frame,)) as reader:
        return reader.read(0)[0]


def check_photometry(frames: list[Frame]) -> None:
    """Refuse colour, and rescaling by a table.

    Raises:
        VolumeError: With the file.
    """
    for frame in frames:
        kind = frame.pixels.photometry
        if frame.pixels.samples != 1 or kind not in ("MONOCHROME1", "MONOCHROME2", ""):
            shown = kind if kind in _COLOUR_KINDS else "unknown"
            msg = (
                f"{frame.file} is a colour image (PhotometricInterpretation {shown}); expected one intensity per pixel."
            )
            raise VolumeError(msg)
        if "ModalityLUTSequence" in frame.header:
            msg = f"{frame.file} rescales by a table (ModalityLUTSequence); expected slope and intercept. Convert it first."
            raise VolumeError(msg)


def describe_photometry(stack: DicomStack) -> list[str]:
    """A note where values and display disagree."""
    inverted = [frame for frame in stack.frames if frame.pixels.photometry == "MONOCHROME1"]
    if not inverted:
        return []
    which = "The series is" if len(inverted) == len(stack.frames) else f"{inverted[0]} and {len(inverted) - 1} more are"
    return [f"{which} MONOCHROME1 (shown inverted); the values were taken as they are, not inverted."]


def find_padding(raw: Array, stored: Array, frame: Frame) -> NDArray[np.bool_] | None:
    """Where a slice holds its padding value or range; None where it has none.

    Args:
        raw: Values with all allocated bits.
        stored: The same with stray bits removed: writers fill the bits above a negative padding value, or do not.
        frame: Gives the padding.
    """
    if stored.dtype.kind == "f" or frame.pixels.padding is None:
        return None
    low, high = frame.pixels.padding
    is_padding: NDArray[np.bool_] = (raw >= low) & (raw <= high)
    half = 2 ** (frame.pixels.bits_stored - 1)
    lowest, highest = (-half, half - 1) if frame.pixels.is_signed else (0, 2 * half - 1)
    if lowest <= low and high <= highest:
        is_padding |= (stored >= low) & (stored <= high)
    return is_padding


def rescale(stored: Array, frame: Frame, dtype: Any) -> Array:
    """Stored values to intensities of the given type; an integer type must hold every result."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f" and (frame.slope != 1 or frame.intercept != 0):
        # Double precision, so that a slope of 7e-5 does not round twice.
        return (stored * np.float64(frame.slope) + np.float64(frame.intercept)).astype(dtype)
    # Integers wrap around and back: where the result fits, so does the arithmetic.
    values = stored.astype(dtype)
    for operation, number in ((np.multiply, int(frame.slope)), (np.add, int(frame.intercept))):
        if number != (1 if operation is np.multiply else 0):
            operation(values, np.array(number).astype(dtype), out=values)
    return values


def _choose_dtype(stack: DicomStack) -> np.dtype[Any]:
    """The smallest type that holds every possible value of every slice exactly."""
    if stack.regrid is not None:
        return np.dtype(np.float32)
    lowest, highest = 0.0, 0.0
    for bits, is_signed, slope, intercept, is_float in {_describe_range(frame) for frame in stack.frames}:
        if is_float or not (slope.is_integer() and intercept.is_integer()):
            return np.dtype(np.float32)
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if is_signed else (0.0, 2.0**bits - 1)
        ends = (low * slope + intercept, high * slope + intercept)
        lowest, highest = min(lowest, *ends), max(highest, *ends)
    for dtype in (np.int16, np.uint16):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    if max(-lowest, highest) <= 2**24:
        return np.dtype(np.float32)
    return np.dtype(np.int32 if lowest >= -(2**31) and highest < 2**31 else np.float32)


def _describe_range(frame: Frame) -> tuple[int, bool, float, float, bool]:
    is_float = frame.instance is not None and frame.instance.pixel_tag in _FLOAT_TYPES
    return frame.pixels.bits_stored, frame.pixels.is_signed, float(frame.slope), float(frame.intercept), is_float


def _read_slices(stack: DicomStack, reader: _FrameReader, dtype: np.dtype[Any]) -> tuple[Array, list[str]]:
    """Intensities ``(slices, rows, columns)``, padding filled with the lowest of the series."""
    num_slices, (rows, columns) = len(stack.frames), stack.frames[0].shape
    voxels = np.empty((num_slices, rows, columns), dtype=dtype)  # as stored, so that slices are copied in one piece
    padding = _Padding() if any(frame.pixels.padding is not None for frame in stack.frames) else None
    for index, frame in enumerate(stack.frames):
        stored, is_padding = reader.read(index)
        voxels[index] = rescale(stored, frame, dtype)
        if padding is not None:
            padding.add(index, voxels[index], is_padding)
    notes = describe_photometry(stack)
    if padding is not None:
        padding.fill(voxels)
        notes = padding.notes + notes
    return voxels, notes


def _regrid(stack: DicomStack, slices: Array) -> Array:
    """Tilted or uneven slices on the rectangular grid; the lowest intensity where they do not reach."""
    assert stack.regrid is not None
    voxels, outside = stack.regrid.resample(lambda index: slices[index])
    voxels[outside] = slices.min()
    return voxels


@dataclass
class _Padding:
    """Remembers padded voxels, packed to bits, until the lowest real intensity is known."""

    lowest: float = np.inf
    num_padded: int = 0
    masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, index: int, values: Array, is_padding: NDArray[np.bool_] | None) -> None:
        if is_padding is None or not is_padding.any():
            self.lowest = min(self.lowest, float(values.min()))
            return
        if not is_padding.all():
            self.lowest = min(self.lowest, float(values[~is_padding].min()))
        self.num_padded += int(is_padding.sum())
        self.masks[index] = np.packbits(is_padding)

    def fill(self, voxels: Array) -> None:
        if not np.isfinite(self.lowest):  # nothing but padding
            return
        shape = voxels.shape[1:]
        for index, packed in self.masks.items():
            is_padding = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)
            voxels[index][is_padding] = self.lowest

    @property
    def notes(self) -> list[str]:
        if not self.num_padded:
            return []
        if not np.isfinite(self.lowest):
            return [f"All {self.num_padded} voxels hold the padding value; they were left as they are."]
        return [
            f"{self.num_padded} voxels hold the padding value; they were set to the lowest intensity, {self.lowest:g}."
        ]


class _FrameReader:
    """Reads slices in order; the frames of one file share its stream."""

    def __init__(self, frames: tuple[Frame, ...]) -> None:
        self._frames = frames
        self._decoded: tuple[Instance, dict[int, Array]] | None = None
        self._instance: Instance | None = None
        self._stream: BinaryIO | None = None

    def __enter__(self) -> _FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that was read last."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def read(self, index: int) -> tuple[Array, NDArray[np.bool_] | None]:
        """Stored values ``(rows, columns)``, and where they are padding."""
        frame = self._frames[index]
        instance = frame.instance
        if instance is None:
            msg = f"{frame} has no pixel data at hand."
            raise VolumeError(msg)
        if frame.tile is not None:
            row, column = frame.tile
            picture = replace(frame, tile=None, shape=_read_picture_shape(frame))
            raw = self._read_raw(picture, instance)[row : row + frame.shape[0], column : column + frame.shape[1]]
        else:
            raw = self._read_raw(frame, instance)
        stored = _keep_stored_bits(raw, frame)
        return stored, find_padding(raw, stored, frame)

    def _read_raw(self, frame: Frame, instance: Instance) -> Array:
        order = NATIVE_SYNTAXES.get(instance.transfer_syntax)
        if order is None or (order == ">" and frame.pixels.bits_allocated == 8):
            return self._decode(frame, instance)
        return self._read_native(frame, instance, order)

    def _read_native(self, frame: Frame, instance: Instance, order: str) -> Array:
        kind = _FLOAT_TYPES.get(instance.pixel_tag)
        integer = f"{'i' if frame.pixels.is_signed else 'u'}{frame.pixels.bits_allocated // 8}"
        dtype = np.dtype(order + (kind or integer))
        rows, columns = frame.shape
        num_bytes = rows * columns * dtype.itemsize
        stream = self._open(instance)
        stream.seek(instance.pixel_offset + frame.index * num_bytes)
        content = stream.read(num_bytes)
        if len(content) < num_bytes:
            msg = f"{frame} is cut short: {len(content)} of {num_bytes} bytes of pixel data. Copy it again."
            raise VolumeError(msg)
        return np.frombuffer(content, dtype=dtype).reshape(rows, columns)

    def _open(self, instance: Instance) -> BinaryIO:
        if self._stream is None or self._instance is not instance:
            self.close()
            self._stream, self._instance = open_dataset(instance.file), instance
        return self._stream

    def _decode(self, frame: Frame, instance: Instance) -> Array:
        if self._decoded is None or self._decoded[0] is not instance:
            wanted = sorted(other.index for other in self._frames if other.instance is instance)
            self._decoded = (instance, decode_frames(instance, wanted))
        array = self._decoded[1][frame.index]
        if array.shape != frame.shape:
            msg = f"{frame} decodes to {array.shape}; expected {frame.shape[0]} rows and {frame.shape[1]} columns. It is damaged."
            raise VolumeError(msg)
        return array


def decode_frames(instance: Instance, indices: list[int]) -> dict[int, Array]:
    """Decode frames of a compressed file: index -> ``(rows, columns)``.

    Raises:
        VolumeError: If no installed package knows the encoding, or the data are damaged.
    """
    from pydicom.pixels import get_decoder, iter_pixels

    uid = instance.transfer_syntax
    try:
        decoder = get_decoder(uid)
    except NotImplementedError as error:
        known = f" {uid}" if re.fullmatch(r"[0-9.]{1,64}", uid) else ""  # free text may be anything
        msg = f"{instance.file} is encoded in a transfer syntax{known} that pydicom does not know. Convert it first."
        raise VolumeError(msg) from error
    if not decoder.is_available:
        package = _CODEC_PACKAGES.get(uid, "python-gdcm")
        msg = f"{instance.file} is encoded as {decoder.UID.name}; no decoder is installed. Install it: pip install {package}"
        raise VolumeError(msg)
    try:
        with quiet_pydicom(), open_dataset(instance.file) as stream:
            if instance.pixel_length < 0:
                check_stream_sizes(instance, indices, stream)
            arrays = iter_pixels(stream, indices=indices, raw=True)
            return {index: np.array(array) for index, array in zip(indices, arrays, strict=True)}
    except VolumeError:
        raise
    except MemoryError as error:
        msg = f"{instance.file} decodes to more than the memory holds; it is damaged or hostile."
        raise VolumeError(msg) from error
    except Exception as error:  # decoders raise what they like; their texts are not passed on
        msg = (
            f"{instance.file} has damaged {decoder.UID.name} pixel data ({type(error).__name__} while decoding). "
            "Copy it from its source again."
        )
        raise VolumeError(msg) from None


def _read_picture_shape(frame: Frame) -> tuple[int, int]:
    return int(get_numbers(frame.header, "Rows", 1, frame.file)[0]), int(
        get_numbers(frame.header, "Columns", 1, frame.file)[0]
    )


def _keep_stored_bits(array: Array, frame: Frame) -> Array:
    """Only the bits that belong to the value: overlays and junk may lie above and below it."""
    if array.dtype.kind == "f":
        return array
    bits, stored = array.dtype.itemsize * 8, frame.pixels.bits_stored
    is_native = frame.instance is not None and frame.instance.transfer_syntax in NATIVE_SYNTAXES
    shift = frame.pixels.high_bit - stored + 1
    if stored >= bits:
        return array
    if shift and not is_native:
        msg = f"{frame} is compressed, and its values do not begin at the lowest bit; expected HighBit = {stored - 1}."
        raise VolumeError(msg)
    # Decoders give the value itself.
    if not is_native and not -(2 ** (stored - 1)) <= int(array.min()) <= int(array.max()) < 2**stored:
        msg = f"{frame} decodes to values of more bits than its BitsStored = {stored}; expected them to fit. Export it again."
        raise VolumeError(msg)
    unsigned = array.astype(array.dtype.newbyteorder("="), copy=False).view(f"u{array.dtype.itemsize}")
    if not frame.pixels.is_signed:
        value: Array = (unsigned >> shift if shift else unsigned) & unsigned.dtype.type(2**stored - 1)
        return value
    # The sign bit moves to the top and back, which repeats it.
    up = bits - stored
    signed: Array = (unsigned >> shift << up).view(f"i{array.dtype.itemsize}") >> up
    return signed
