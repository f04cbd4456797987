"""NRRD headers as they stand in the file, and voxels that lie behind a text header (NRRD and MetaImage).

The voxels are decoded here, not by SimpleITK: its MetaImage reader returns garbage without an error for a flipped bit in
the zlib stream or a missing CompressedDataSize, and its NRRD reader takes ``space: scanner-xyz`` for LPS, ignores
``space units`` and follows a detached header out of its folder (2.5.7, each tried). Both formats are a few bytes of text
before raw, gzip, zlib or bzip2 data, whose checksums Python's own modules compare when read to their end; checking
SimpleITK's answers would take more code than decoding. The NRRD format: https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.content_kind import describe_content
from medunet.io.regular_file import check_regular_file
from medunet.io.stored_voxels import (
    HEADER_LIMIT_BYTES,
    Compression,
    check_sizes,
    decode_voxels,
    locate_data_file,
    parse_whole,
)
from medunet.volume import Array

_COMPRESSIONS: dict[str, Compression] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
}  # fmt: skip
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_FIELDS = (
    "dimension", "type", "encoding", "endian", "datafile", "lineskip", "byteskip", "sizes", "space", "spacedimension",
    "spaceunits", "spaceorigin", "spacedirections", "spacings", "units", "kinds",
)  # fmt: skip
_CHUNK_BYTES = 2**22
_LARGE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class NrrdHeader:
    """The header of an NRRD file.

    Attributes:
        path: The file; messages call it so.
        fields: Of the format, such as ``"spaceorigin"``: lower case, without spaces (the format has both spellings).
        keys: What programs added as ``key:=value``; may name a patient, so no message quotes it.
        data_offset: Where the header ends.
    """

    path: Path
    fields: dict[str, str]
    keys: dict[str, str]
    data_offset: int

    def get(self, field: str) -> str:
        """The text of a field.

        Raises:
            VolumeError: If it is not there.
        """
        if field not in self.fields:
            msg = f"{self.path} has no field '{field}' in its NRRD header; expected one. Write it again."
            raise VolumeError(msg)
        return self.fields[field]

    def get_whole(self, field: str, default: int | None = None) -> int:
        """A field that holds one whole number; ``default`` where it is absent."""
        if default is not None and field not in self.fields:
            return default
        return parse_whole(self.get(field), field, str(self.path), count=1)[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Axis lengths, fastest axis first."""
        dimension = self.get_whole("dimension")
        return check_sizes(parse_whole(self.get("sizes"), "sizes", str(self.path), count=dimension), str(self.path))


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read and split the header; only its form is checked.

    Raises:
        VolumeError: If the file is missing, is no NRRD file, or its header is cut short or says something twice.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        head = file.read(HEADER_LIMIT_BYTES)
    if not re.match(rb"NRRD000[1-6]\r?\n", head):
        msg = (
            f"{path} is no NRRD file: it is {describe_content(head)}; expected NRRD0001 to NRRD0006 as first line. "
            "Convert it or fetch it again."
        )
        raise VolumeError(msg)
    blank = re.search(rb"\n\r?\n", head)
    offset = blank.end() if blank else len(head)
    fields, keys = _split_header(head[:offset].decode("utf-8", "replace"), str(path))
    if blank is None and ("datafile" not in fields or len(head) == HEADER_LIMIT_BYTES):
        msg = f"{path} is cut short: its NRRD header has no end. Copy it from its source again."
        raise VolumeError(msg)
    return NrrdHeader(path=path, fields=fields, keys=keys, data_offset=offset)


def locate_nrrd_voxels(path: Path) -> Path:
    """The file that holds the voxels: ``path`` itself, or the one that its header names.

    Raises:
        VolumeError: As `read_nrrd_header`; or if the file that it names is missing or outside its folder.
    """
    return _locate_voxels(read_nrrd_header(path))


def _locate_voxels(header: NrrdHeader) -> Path:
    return locate_data_file(header.path, header.fields["datafile"]) if "datafile" in header.fields else header.path


def read_nrrd_voxels(header: NrrdHeader) -> Array:
    """The voxels as they are stored, ``header.sizes`` in Fortran order.

    Raises:
        VolumeError: If their number, type or encoding is not what the header says, or they are damaged.
    """
    name = str(header.path)
    compression = _COMPRESSIONS.get(header.get("encoding").lower())
    if compression is None:
        msg = f"{name} has the encoding '{header.get('encoding')[:20]}'; expected raw, gzip or bzip2. Write it again."
        raise VolumeError(msg)
    dtype, sizes = _get_dtype(header), header.sizes
    path = _locate_voxels(header)
    with path.open("rb") as file:
        file.seek(header.data_offset if path is header.path else 0)
        for _ in range(min(header.get_whole("lineskip", 0), HEADER_LIMIT_BYTES)):
            file.readline()
        return decode_voxels(file, path, sizes, dtype, compression, byte_skip=header.get_whole("byteskip", 0))


def _split_header(text: str, name: str) -> tuple[dict[str, str], dict[str, str]]:
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    if text.partition("\n")[0].endswith("\r"):
        text = text.replace("\r\n", "\n")
    for line in text.split("\n")[1:]:
        match = re.fullmatch(r"([^#:][^:]*):(=?)(.*)", line, re.DOTALL)
        if match is None:  # a comment or the empty line
            continue
        word, is_key, content = match.groups()
        field = word.replace(" ", "").lower()
        if is_key:
            keys[word] = re.sub(r"\\([\\n])", lambda escape: "\n" if escape[1] == "n" else "\\", content)
        elif field in fields:
            msg = f"{name} has the field '{field}' twice in its NRRD header; expected it once. Write it again."
            raise VolumeError(msg)
        elif field in _FIELDS:
            fields[field] = content.strip()
    return fields, keys


def _get_dtype(header: NrrdHeader) -> np.dtype[Any]:
    word = " ".join(header.get("type").lower().split())
    code = next((code for code, words in _TYPES.items() if word in words), None)
    if code is None:
        msg = f"{header.path} holds voxels of type '{word[:20]}'; expected an integer or float type. Convert it first."
        raise VolumeError(msg)
    if code in ("i1", "u1"):
        return np.dtype(code)
    endian = header.get("endian").lower()
    if endian not in ("little", "big"):
        msg = f"{header.path} has endian = '{endian[:20]}' in its header; expected little or big. Write it again."
        raise VolumeError(msg)
    return np.dtype(("<" if endian == "little" else ">") + code)
