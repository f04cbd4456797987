"""One preprocessed case as one safetensors file, and reading any part of it without the rest.

Tensors: ``image`` and ``labels`` in blocks (`medunet.preprocessing.blocks`), ``step`` and ``zero`` where the image is
int16 (`medunet.preprocessing.quantize`), ``fill``, ``foreground`` and ``foreground_counts``
(`medunet.preprocessing.foreground`), ``affine``. Metadata: ``shape``, and ``checksum``, the SHA-256 over all tensors.

Labels that a network found before (`medunet.preprocessing.store.serialize_previous_labels`) lie in a file of the same form.

Files are read, not mapped: a disk or a network that fails while a mapped page is touched ends the process without a
word (SIGBUS), and mapped pages count as memory of the process. Reading raises an error that can be named.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from medunet.errors import VolumeError
from medunet.preprocessing.blocks import Box, read_box_from_blocks
from medunet.volume import Array, Shape3

_DTYPES = {"F64": np.float64, "F32": np.float32, "I32": np.int32, "I16": np.int16, "U8": np.uint8}
_OPEN_FILES = 64
"""Files kept open; systems allow 256 to 1024 per process."""
_LARGEST_HEADER = 2**20


class DamagedCaseError(VolumeError):
    """A file of a preprocessed case is cut off or not what it was written as."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int  # in bytes from the start of the file


@dataclass(frozen=True, kw_only=True)
class CaseFile:
    """A file whose header has been read; a few hundred bytes in memory.

    Attributes:
        path: Where it lies.
        shape: ``(I, J, K)`` of the case.
        checksum: SHA-256 over its tensors when it was written.
        version: Inode and time of the file that was looked at; one that was made anew has another.
        entries: Where each tensor lies.
    """

    path: Path
    shape: Shape3
    checksum: str
    version: tuple[int, int]
    entries: Mapping[str, _Entry]

    def read_box(self, name: str, box: Box) -> Array:
        """``(C, *box)`` of a tensor in blocks."""
        entry = self.entries[name]
        handle = _open(self.path, self.version)
        num_bytes = entry.dtype.itemsize * int(np.prod(entry.shape[3:]))

        def read(runs: Sequence[tuple[int, Array]]) -> None:
            handle.announce([(entry.offset + block * num_bytes, blocks.nbytes) for block, blocks in runs])
            for block, blocks in runs:
                handle.read_into(blocks, entry.offset + block * num_bytes)

        return read_box_from_blocks(read, entry.shape, entry.dtype, box)

    def read_tensor(self, name: str) -> Array:
        """A whole tensor, as it is stored."""
        return self.read_rows(name, 0, self.entries[name].shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> Array:
        """Part of a tensor along its first axis."""
        entry = self.entries[name]
        rows = np.empty((stop - start, *entry.shape[1:]), entry.dtype)
        num_bytes = entry.dtype.itemsize * int(np.prod(entry.shape[1:]))
        _open(self.path, self.version).read_into(rows, entry.offset + start * num_bytes)
        return rows

    def verify(self) -> None:
        """Read everything and compare it with the checksum.

        Raises:
            DamagedCaseError: If it differs.
        """
        if compute_checksum({name: self.read_tensor(name) for name in self.entries}, self.shape) != self.checksum:
            msg = f"The content of {self.path} is not what was written (its SHA-256 differs)."
            raise DamagedCaseError(msg)


def serialize_case(tensors: Mapping[str, Array], shape: Shape3) -> bytes:
    """The bytes of a case file."""
    metadata = {"shape": ",".join(map(str, shape)), "checksum": compute_checksum(tensors, shape)}
    content: bytes = save(dict(tensors), metadata)
    return content


def compute_checksum(tensors: Mapping[str, Array], shape: Shape3) -> str:
    """SHA-256 over names, types, shapes and voxels, in hexadecimal digits."""
    digest = hashlib.sha256(str(tuple(shape)).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def open_case_file(path: Path) -> CaseFile:
    """Read the header and compare it with the length of the file.

    Raises:
        DamagedCaseError: If the file is cut off, or no case file.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _LARGEST_HEADER else b""
    try:
        content = json.loads(header)
        metadata = content.pop("__metadata__")
        i, j, k = (int(number) for number in metadata["shape"].split(","))
        entries = {name: _parse_entry(entry, 8 + length) for name, entry in content.items()}
        expected = 8 + length + max(entry["data_offsets"][1] for entry in content.values())
        checksum = metadata["checksum"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} is not a preprocessed case, or its beginning is damaged."
        raise DamagedCaseError(msg) from error
    if status.st_size != expected:
        msg = f"{path} has {status.st_size} bytes; expected {expected}. It was cut off or changed."
        raise DamagedCaseError(msg)
    version = status.st_ino, status.st_mtime_ns
    return CaseFile(path=path, shape=(i, j, k), checksum=checksum, version=version, entries=entries)


def _parse_entry(entry: dict[str, Any], start: int) -> _Entry:
    return _Entry(
        dtype=np.dtype(_DTYPES[entry["dtype"]]),
        shape=tuple(entry["shape"]),
        offset=start + entry["data_offsets"][0],
    )


class _Handle:
    """An open file, closed when nobody holds it any more; several threads may read at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)  # also at the end of the program, before modules are gone

    def announce(self, parts: Sequence[tuple[int, int]]) -> None:
        """Let the system fetch several parts (offset, number of bytes) at once, where it can; reading them waits less."""
        if hasattr(os, "posix_fadvise"):
            for offset, num_bytes in parts:
                os.posix_fadvise(self._descriptor, offset, num_bytes, os.POSIX_FADV_WILLNEED)

    def read_into(self, array: Array, offset: int) -> None:
        """Fill a contiguous array with the bytes from an offset on."""
        view = array.reshape(-1).view(np.uint8).data
        while len(view):
            count = self._read_at(view, offset)
            if count == 0:
                msg = f"{self._path} ends early; it was cut off while in use."
                raise DamagedCaseError(msg)
            view, offset = view[count:], offset + count

    def _read_at(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [view], offset)
        with self._lock:  # Windows has one position per file
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            content = os.read(self._descriptor, len(view))
            view[: len(content)] = content
            return len(content)


@functools.lru_cache(_OPEN_FILES)
def _open(path: Path, version: tuple[int, int]) -> _Handle:
    del version  # part of the key: what was open before a file was made anew is not asked again
    return _Handle(path)
