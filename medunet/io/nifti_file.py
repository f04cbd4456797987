"""NIfTI files as bytes: their names, both halves of a pair, compressed or not, and what goes wrong with them.

nibabel does not read the gzip trailer (a flipped bit would load silently), so a compressed stream is read up to its
checksum here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medunet.errors import LabelError, VolumeError
from medunet.io.gzip_stream import GZIP_ERRORS, open_gzip_reader
from medunet.volume import Array

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")
_PADDING_BYTES = 4096  # a disk block; more after the voxels are slices that the header does not know of


def is_nifti(path: Path) -> bool:
    """Whether the name ends like a NIfTI file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_pair(path: Path) -> bool:
    """Whether header and voxels lie in files of their own."""
    return path.suffix.lower() in (".hdr", ".img")


def get_pair_paths(path: Path) -> tuple[Path, Path]:
    """Header and voxel file, the same one unless it is a pair; the other half is looked for in the same case."""
    if not is_pair(path):
        return path, path
    hdr, img = (".HDR", ".IMG") if path.suffix.isupper() else (".hdr", ".img")
    return (path, path.with_suffix(img)) if path.suffix.lower() == ".hdr" else (path.with_suffix(hdr), path)


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes; the content says whether they are compressed, whatever the name says."""
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not is_compressed:
            yield raw
            return
        with open_gzip_reader(raw) as stream:
            yield stream


def read_pieces(stream: BinaryIO, sizes: Iterable[int], start: int, end: int, path: Path) -> Iterator[Array]:
    """Some of the bytes that a header promises, piece by piece, and a look at whether the rest is there.

    Args:
        stream: From `open_stream`, at its start.
        sizes: Of the pieces, in bytes; none is larger than the first.
        start: Where they begin.
        end: Where the promised bytes end.
        path: The file, for messages.

    Yields:
        ``(size,)`` uint8, valid until the next one. The checks of the whole stream come after the last.

    Raises:
        VolumeError: If the stream ends before ``end``, or goes on far beyond it.
    """
    stream.seek(start)
    buffer = np.empty(0, dtype=np.uint8)
    is_whole = True
    for size in sizes:
        buffer = buffer if len(buffer) else np.empty(size, dtype=np.uint8)
        piece, done = buffer[:size], 0
        while done < size and (count := stream.readinto(piece[done:])):  # type: ignore[attr-defined]
            done += count
        if done < size:
            is_whole = False
            break
        yield piece
    reached = stream.seek(end) if is_whole else stream.tell()  # gzip stops at its own end
    if reached < end:
        msg = (
            f"{path} is cut short: its header promises {end} bytes with its voxels, the file holds {reached}. "
            "Copy it from its source again."
        )
        raise VolumeError(msg)
    _drain(stream, path)


def _drain(stream: BinaryIO, path: Path) -> None:
    """Read on to the end, so that gzip compares its checksum."""
    num_bytes = 0
    while chunk := stream.read(_PADDING_BYTES):
        num_bytes += len(chunk)
        if num_bytes >= _PADDING_BYTES:
            msg = (
                f"{path} holds {num_bytes} bytes or more after its voxels; expected none. Its header may promise too "
                "few voxels; convert it again."
            )
            raise VolumeError(msg)
    if num_bytes:
        logger.warning("%s holds %d bytes after its voxels; they are ignored.", path, num_bytes)


@contextlib.contextmanager
def explain_failures(name: str) -> Iterator[None]:
    """Turn whatever Python, zlib and nibabel say about a bad file into one line that names it."""
    try:
        # Overflow to infinity is found, and reported, among the voxels.
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except (VolumeError, LabelError):
        raise
    except GZIP_ERRORS as error:
        what = "end too early" if isinstance(error, EOFError) else "are garbled or fail their checksum"
        msg = f"{name} is damaged: its compressed data {what}. Copy it from its source again."
        raise VolumeError(msg) from error
    except MemoryError as error:
        msg = f"{name} does not fit into memory. Crop it, or use a machine with more memory."
        raise VolumeError(msg) from error
    except PermissionError as error:
        msg = f"{name} cannot be opened: no permission to read it. Change its permissions, or copy it."
        raise VolumeError(msg) from error
    except (ImageFileError, HeaderDataError, ValueError, OSError, OverflowError) as error:
        msg = f"{name} cannot be read as NIfTI ({_first_line(error)}). Check the file, or convert it again."
        raise VolumeError(msg) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
