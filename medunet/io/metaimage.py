"""MetaImage files (``.mha``, and ``.mhd`` with ``.raw`` or ``.zraw``) to `Volume`.

World axes are left, posterior, superior, as in ITK: ``AnatomicalOrientation`` only repeats what ``TransformMatrix``
says. Row n of that matrix is the direction of axis n. Decoded here and not by SimpleITK; `medunet.io.nrrd` says why.
The format: https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medunet.errors import VolumeError
from medunet.io.affine import LPS_FROM_RAS, check_affine
from medunet.io.content_kind import describe_content
from medunet.io.regular_file import check_regular_file
from medunet.io.stored_voxels import (
    HEADER_LIMIT_BYTES,
    MM_PER_UNIT,
    build_volume,
    check_sizes,
    decode_voxels,
    explain_failures,
    locate_data_file,
    parse_numbers,
    parse_whole,
)
from medunet.volume import Affine, Array, Volume

logger = logging.getLogger(__name__)

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_SPACINGS = ("ElementSpacing", "ElementSize")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_ORIGINS = ("Offset", "Position", "Origin")
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_FIELDS = (
    *_SPACINGS, *_MATRICES, *_ORIGINS, *_BYTE_ORDERS, "ObjectType", "NDims", "BinaryData", "CompressedData",
    "CompressedDataSize", "CenterOfRotation", "DistanceUnits", "DimSize", "HeaderSize", "ElementNumberOfChannels",
    "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementType", "ElementDataFile",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The fields that matter here (others may name a patient), and where the header ends."""

    path: Path
    fields: dict[str, str]
    end: int

    def get(self, *spellings: str, default: str | None = None) -> str:
        """The text of a field that has several names; ``default`` where none is there."""
        found = [self.fields[field] for field in spellings if field in self.fields]
        if len(set(found)) > 1:
            msg = f"{self.path} has different values for {' and '.join(spellings)}; expected one. Repair its header."
            raise VolumeError(msg)
        if not found and default is None:
            msg = f"{self.path} has no field '{spellings[0]}' in its header; expected one. Write it again."
            raise VolumeError(msg)
        return found[0] if found else default or ""

    def get_whole(self, field: str, default: str | None = None) -> int:
        return parse_whole(self.get(field, default=default), field, str(self.path), count=1)[0]

    def get_numbers(self, *spellings: str, default: str, count: int) -> list[float]:
        return parse_numbers(self.get(*spellings, default=default), spellings[0], str(self.path), count=count)

    def is_true(self, *spellings: str, default: str) -> bool:
        word = self.get(*spellings, default=default).lower()
        if word not in ("true", "false", "t", "f", "1", "0"):
            msg = f"{self.path} has {spellings[0]} = '{word[:20]}' in its header; expected True or False. Repair it."
            raise VolumeError(msg)
        return word in ("true", "t", "1")


def read_metaimage(path: Path, *, volume_index: int | None = None) -> Volume:
    """Read an image; several numbers per voxel, or a fourth axis, become channels.

    Args:
        path: ``.mha``, or ``.mhd`` with its data file beside it.
        volume_index: Which channel, from 0; None takes all.

    Returns:
        Volume with the integer type of the file, or float32 where the file is float. A 2D image has ``K == 1``.

    Raises:
        VolumeError: If the file is missing, is no MetaImage, is damaged, is stored in a way that is not understood
            (text, several files, rescaled by the reader), holds NaN, or has an affine that is not finite, singular or
            sheared.
    """
    with explain_failures(path):
        header = _read_header(path)
        num_axes = header.get_whole("NDims")
        if num_axes not in (2, 3, 4):
            msg = f"{path} has NDims = {num_axes} in its header; expected 2, 3 or 4. Split it first."
            raise VolumeError(msg)
        affine = _read_affine(header, num_axes)
        voxels = _read_voxels(header, num_axes)
        return build_volume(voxels, affine, str(path), volume_index)


def locate_metaimage_voxels(path: Path) -> Path:
    """The file that holds the voxels: ``path`` itself, or the one that its header names.

    Raises:
        VolumeError: If the header is damaged, or the file that it names is missing or outside its folder.
    """
    with explain_failures(path):
        return _locate_voxels(_read_header(path))


def _locate_voxels(header: _Header) -> Path:
    data_name = header.get("ElementDataFile")
    return header.path if data_name.lower() == "local" else locate_data_file(header.path, data_name)


def _read_header(path: Path) -> _Header:
    check_regular_file(path)
    with path.open("rb") as file:
        head = file.read(HEADER_LIMIT_BYTES)
    if not re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*[=:]", head):
        msg = (
            f"{path} is no MetaImage: it is {describe_content(head)}; expected a header that starts with ObjectType. "
            "Convert it or fetch it again."
        )
        raise VolumeError(msg)
    last = re.search(rb"^\s*ElementDataFile\s*[=:][^\n]*(\n|\Z)", head, re.MULTILINE)
    if last is None:
        msg = f"{path} is cut short: its header has no field ElementDataFile. Copy it from its source again."
        raise VolumeError(msg)
    return _Header(path=path, fields=_split_header(head[: last.end()], path), end=last.end())


def _split_header(head: bytes, path: Path) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\n"):
        field, _, content = re.sub("[=:]", "\0", line, count=1).partition("\0")
        field = field.strip()
        if field in fields:
            msg = f"{path} has the field {field} twice in its header; expected it once. Repair its header."
            raise VolumeError(msg)
        if field in _FIELDS:
            fields[field] = content.strip()
    if fields.get("ObjectType", "Image") != "Image":
        msg = f"{path} is a MetaIO file of the kind '{fields['ObjectType'][:20]}'; expected Image. Export an image."
        raise VolumeError(msg)
    return fields


# ---- geometry --------------------------------------------------------------------------------------------------------


def _read_affine(header: _Header, num_axes: int) -> Affine:
    spacing = np.array(header.get_numbers(*_SPACINGS, default="1 " * num_axes, count=num_axes))
    identity = " ".join(str(entry) for entry in np.eye(num_axes).ravel())
    numbers = header.get_numbers(*_MATRICES, default=identity, count=num_axes**2)
    directions = np.array(numbers).reshape(num_axes, num_axes).T  # column n: direction of axis n
    origin = np.array(header.get_numbers(*_ORIGINS, default="0 " * num_axes, count=num_axes))
    _check_directions(directions, header.path)
    _warn_about_geometry(header, num_axes)
    num_spatial = min(num_axes, 3)
    affine_lps = np.eye(4)  # a 2D image is a slice of 1 mm
    affine_lps[:num_spatial, :num_spatial] = (directions * spacing)[:num_spatial, :num_spatial]
    affine_lps[:num_spatial, 3] = origin[:num_spatial]
    unit = header.get("DistanceUnits", default="").lower().strip("?")
    if unit not in MM_PER_UNIT:
        msg = (
            f"{header.path} has DistanceUnits = '{unit[:20]}' in its header; expected mm, um or cm. Repair its header."
        )
        raise VolumeError(msg)
    affine_lps[:num_spatial] *= MM_PER_UNIT[unit]
    return check_affine(LPS_FROM_RAS @ affine_lps, str(header.path))


def _check_directions(directions: Affine, path: Path) -> None:
    """Lengths belong into the spacing (readers differ where the matrix has some), and time is no direction in space."""
    lengths = np.linalg.norm(directions, axis=0)
    is_mixed = np.any(directions[:3, 3:]) or np.any(directions[3:, :3])
    if not np.allclose(lengths, 1.0, atol=1e-3) or is_mixed:
        rows = [[round(entry, 4) for entry in row] for row in directions.T.tolist()]
        msg = f"{path} has TransformMatrix = {rows}; expected three directions of length 1. Repair its header."
        raise VolumeError(msg)


def _warn_about_geometry(header: _Header, num_axes: int) -> None:
    if not any(field in header.fields for field in _SPACINGS):
        logger.warning("%s says no ElementSpacing; 1 mm is assumed.", header.path)
    if not all(any(field in header.fields for field in names) for names in (_MATRICES, _ORIGINS)):
        logger.warning("%s does not say where it lies: orientation and position are guessed.", header.path)
    if any(header.get_numbers("CenterOfRotation", default="0 " * num_axes, count=num_axes)):
        logger.warning("%s has a CenterOfRotation; it is ignored, as ITK does.", header.path)


# ---- voxels ----------------------------------------------------------------------------------------------------------


def _read_voxels(header: _Header, num_axes: int) -> Array:
    """``(C, I, J, K)``, not yet contiguous."""
    _check_meaning(header)
    name = str(header.path)
    sizes = parse_whole(header.get("DimSize"), "DimSize", name, count=num_axes)
    num_channels = header.get_whole("ElementNumberOfChannels", "1")
    stored = check_sizes((num_channels, *sizes) if num_channels != 1 else sizes, name)  # channels vary fastest
    path = _locate_voxels(header)
    with path.open("rb") as file:
        file.seek(header.end if path is header.path else 0)
        voxels = _decode(header, file, path, stored)
    if num_axes == 4:
        return np.moveaxis(voxels, 3, 0)
    voxels = voxels if num_channels != 1 else voxels[None]
    return voxels if num_axes == 3 else voxels[..., None]


def _decode(header: _Header, file: BinaryIO, path: Path, stored: tuple[int, ...]) -> Array:
    skip, is_compressed = header.get_whole("HeaderSize", "0"), header.is_true("CompressedData", default="False")
    if skip and (is_compressed or (skip > 0 and file.tell())):
        msg = f"{header.path} has HeaderSize = {skip} before compressed or local data; expected 0. Write it again."
        raise VolumeError(msg)
    if not is_compressed:
        return decode_voxels(file, path, stored, _get_dtype(header), "raw", byte_skip=skip)
    num_claimed = header.get_whole("CompressedDataSize", "0")  # 0: old writers did not know
    num_stored = os.fstat(file.fileno()).st_size - file.tell()
    if num_claimed not in (0, num_stored):
        problem = "is cut short" if num_stored < num_claimed else "does not fit its header"
        msg = (
            f"{path} {problem}: the header promises {num_claimed} compressed bytes, the file holds {num_stored}. "
            "Copy it from its source again."
        )
        raise VolumeError(msg)
    return decode_voxels(file, path, stored, _get_dtype(header), "zlib")


def _get_dtype(header: _Header) -> np.dtype[Any]:
    code = _TYPES.get(header.get("ElementType"))
    if code is None:
        found = header.get("ElementType")[:20]
        msg = (
            f"{header.path} has ElementType = '{found}' in its header; expected an integer or float. Convert it first."
        )
        raise VolumeError(msg)
    is_big_endian = header.is_true(*_BYTE_ORDERS, default="False")
    return np.dtype((">" if is_big_endian else "<") + code)


def _check_meaning(header: _Header) -> None:
    """Refuse what readers take in different ways."""
    if not header.is_true("BinaryData", default="True"):
        msg = f"{header.path} stores its voxels as text; expected BinaryData = True. Write it again."
        raise VolumeError(msg)
    slope = header.get_numbers("ElementToIntensityFunctionSlope", default="1", count=1)
    offset = header.get_numbers("ElementToIntensityFunctionOffset", default="0", count=1)
    if slope != [1.0] or offset != [0.0]:
        msg = (
            f"{header.path} asks its reader for a slope of {slope[0]:g} and an offset of {offset[0]:g}, which most "
            "ignore; expected 1 and 0. Apply them and write it again."
        )
        raise VolumeError(msg)
