"""Voxels that lie behind a text header (NRRD and MetaImage): where they are, unpacked, and made a `Volume`.

Sizes that a header claims are held against the file and the memory first; checksums are read to their end.
"""

from __future__ import annotations

import bz2
import contextlib
import math
import os
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, Literal

import numpy as np

from medunet.errors import LabelError, VolumeError
from medunet.io.claims import check_claim, check_memory
from medunet.io.gzip_stream import GZIP_ERRORS, open_gzip_reader
from medunet.io.regular_file import check_regular_file
from medunet.io.voxels import check_finite, choose_volume, copy_to_row_order, get_working_dtype
from medunet.volume import Affine, Array, Volume

MM_PER_UNIT = {
    "": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3,
    "nm": 1e-6, "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0, "m": 1000.0, "meter": 1000.0, "metre": 1000.0,
    "inch": 25.4,
}  # fmt: skip
"""What headers in words call a length; the two µ are the micro sign and the Greek letter."""

Compression = Literal["raw", "gzip", "zlib", "bzip2"]

HEADER_LIMIT_BYTES = 2**22
_CHUNK_BYTES = 2**22
_LARGE_BYTES = 2**30


@contextlib.contextmanager
def explain_failures(path: Path) -> Iterator[None]:
    """Turn what Python, zlib and bz2 say about a bad file into one line that names it."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # infinity is found, and reported, where it ends up
            yield
    except (VolumeError, LabelError):
        raise
    except EOFError as error:
        msg = f"{path} is cut short: its compressed data end too early. Copy it from its source again."
        raise VolumeError(msg) from error
    except MemoryError as error:
        msg = f"{path} does not fit into memory. Crop it, or use a machine with more memory."
        raise VolumeError(msg) from error
    except GZIP_ERRORS + (OSError,) as error:  # noqa: RUF005 - mypy loses the types of an unpacked tuple
        if isinstance(error, OSError) and error.errno:
            msg = f"{path} cannot be read: {error.strerror}. Check its permissions and the disk."
        else:  # bz2 and gzip raise an OSError without a number
            msg = f"{path} is damaged: its data are garbled or fail their checksum. Copy it from its source again."
        raise VolumeError(msg) from error


def parse_whole(text: str, field: str, name: str, *, count: int) -> tuple[int, ...]:
    """``count`` whole numbers from a header.

    Raises:
        VolumeError: If they are others, or fewer or more.
    """
    words = text.split()
    if len(words) != count or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        msg = f"{name} has {field} = '{text[:60]}' in its header; expected {count} whole number(s). Repair its header."
        raise VolumeError(msg)
    return tuple(int(word) for word in words)


def parse_numbers(text: str, field: str, name: str, *, count: int) -> list[float]:
    """``count`` numbers from a header; NaN is let through.

    Raises:
        VolumeError: If they are no numbers, or fewer or more.
    """
    words = re.split(r"[,\s]+", text.strip())
    with contextlib.suppress(ValueError):
        numbers = [float(word) for word in words]
        if len(numbers) == count:
            return numbers
    msg = f"{name} has {field} = '{text[:60]}' in its header; expected {count} number(s). Repair its header."
    raise VolumeError(msg)


def check_sizes(sizes: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The same axis lengths, if they are positive and 2 to 4.

    Raises:
        VolumeError: With the lengths.
    """
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        msg = f"{name} has the axis lengths {'x'.join(map(str, sizes))}; expected 2 to 4 positive ones. Split it first."
        raise VolumeError(msg)
    return sizes


def locate_data_file(header_path: Path, data_name: str) -> Path:
    """The file that a detached header names, which must lie in the header's folder or below.

    Raises:
        VolumeError: If it lies elsewhere, is missing, or if there are several.
    """
    parts = PureWindowsPath(data_name)  # knows both kinds of slash, and drives
    words = data_name.split()
    if not words or words[0] == "LIST" or "%" in data_name:
        msg = f"{header_path} spreads its voxels over several files; expected one. Write it again as one file."
        raise VolumeError(msg)
    if parts.anchor or ".." in parts.parts or "\0" in data_name:
        msg = f"{header_path} names a data file outside its own folder; expected one beside it. Put them together."
        raise VolumeError(msg)
    path = header_path.parent / data_name
    check_regular_file(path)
    return path


def decode_voxels(
    file: BinaryIO,
    path: Path,
    sizes: tuple[int, ...],
    dtype: np.dtype[Any],
    compression: Compression,
    *,
    byte_skip: int = 0,
) -> Array:
    """The voxels from where a file stands to its end, ``sizes`` in Fortran order.

    Args:
        file: Open, at the first stored byte.
        path: Its name.
        sizes: Axis lengths, fastest first.
        dtype: In the byte order of the file.
        compression: How the bytes are stored.
        byte_skip: Unpacked bytes before the voxels; -1 counts from the end of a raw file.

    Raises:
        VolumeError: If the file holds fewer or more bytes, fails its checksum, or promises more than memory holds.
    """
    num_bytes = math.prod(sizes) * dtype.itemsize
    num_stored = os.fstat(file.fileno()).st_size - file.tell()
    what = "x".join(map(str, sizes)) + " voxels"
    if byte_skip == -1 and compression == "raw":
        byte_skip = max(0, num_stored - num_bytes)
    if byte_skip < 0 or byte_skip > HEADER_LIMIT_BYTES:
        msg = f"{path} is to be read from byte {byte_skip} on; expected 0 to {HEADER_LIMIT_BYTES}. Write it again."
        raise VolumeError(msg)
    if compression == "raw":
        _check_length(path, what, byte_skip + num_bytes, num_stored)
    elif compression != "bzip2" or num_bytes > _LARGE_BYTES:  # bzip2 packs zeros tighter than the rule for deflate
        check_claim(path, byte_skip + num_bytes, what=what, is_compressed=True)
    check_memory(path, num_bytes + math.prod(sizes) * get_working_dtype(dtype).itemsize)
    buffer = np.empty(byte_skip + num_bytes, dtype=np.uint8)  # takes no memory before it is filled
    done = 0
    for chunk in _unpack(file, compression):
        part = buffer[done : done + len(chunk)]
        part[:] = np.frombuffer(chunk, dtype=np.uint8)[: len(part)]
        done += len(chunk)
        if done > len(buffer):
            break
    _check_length(path, what, len(buffer), done)
    return buffer[byte_skip:].view(dtype).reshape(sizes, order="F")


def _check_length(path: Path, what: str, expected: int, found: int) -> None:
    if found != expected:
        problem = "is cut short" if found < expected else "does not fit its header"
        more = "" if found < expected else " or more"
        msg = (
            f"{path} {problem}: the header promises {what} ({expected} bytes), the data have {found}{more}. "
            "Copy it from its source again, or repair its header."
        )
        raise VolumeError(msg)


def _unpack(file: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """The bytes in pieces; the end is reached only with the right checksum."""
    if compression == "zlib":
        return _inflate(file)
    stream: Any = file
    if compression == "gzip":
        stream = open_gzip_reader(file)
    elif compression == "bzip2":
        stream = bz2.BZ2File(file)
    return iter(partial(stream.read, _CHUNK_BYTES), b"")


def _inflate(file: BinaryIO) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(47)  # with the header of zlib or of gzip
    while not decompressor.eof:
        packed = decompressor.unconsumed_tail or file.read(_CHUNK_BYTES)
        piece = decompressor.decompress(packed, _CHUNK_BYTES)
        if not packed and not piece and not decompressor.eof:
            raise EOFError
        yield piece
    yield decompressor.unused_data or file.read(1)  # what is left over does not belong there


def build_volume(voxels: Array, affine: Affine, name: str, volume_index: int | None) -> Volume:
    """A volume of voxels as they are stored, ``(C, I, J, K)``; of one channel only if ``volume_index`` says which.

    Raises:
        VolumeError: If there is no such channel, or voxels are NaN or infinite.
    """
    if volume_index is not None:
        chosen = choose_volume(len(voxels), volume_index, name)
        voxels = voxels[chosen.start : chosen.stop]
    array = copy_to_row_order(voxels)
    check_finite(array, name)
    return Volume(array, affine)
