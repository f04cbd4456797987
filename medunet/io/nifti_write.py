"""`Volume` to NIfTI-1 and NIfTI-2 files; a mask keeps the bits of its scan's geometry and nothing else of it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medunet.errors import OutputError
from medunet.io.atomic import open_atomic
from medunet.io.gzip_stream import open_gzip_writer
from medunet.io.nifti_affine import Form
from medunet.io.nifti_labels import build_extension
from medunet.io.nifti_read import read_nifti_grid
from medunet.io.structures import StructureSet
from medunet.io.voxels import choose_label_dtype, iterate_file_order, to_label_array
from medunet.volume import Affine, Array, Volume, check_same_grid

NO_EXTENSION = bytes(4)
"""Says that the voxels follow the header at once."""


def write_nifti_labels(
    label_map: Volume,
    path: Path,
    *,
    like: Path | None = None,
    affine: Form | None = None,
    description: str = "",
    structures: StructureSet | None = None,
) -> None:
    """Write a label map, whole or not at all, in the smallest of uint8, int16 and int32 that holds it.

    Args:
        label_map: ``(1, I, J, K)`` of an integer type.
        path: Where to; ends in ``.nii`` or ``.nii.gz``.
        like: The scan that the mask belongs to. Its geometry fields are kept bit for bit; its free text
            (``descrip``, ``aux_file``, ``intent_name``, ``db_name``, extensions) is not: it may name a patient.
        affine: Which affine of ``like`` the label map lies on, as `read_nifti` was told. Both are kept anyway.
        description: Text for ``descrip``, at most 79 bytes.
        structures: Names, colours and codes of the labels, for a header extension (`read_nifti_structures` reads it).

    Raises:
        OutputError: If the name has another ending, or the file cannot be written.
        LabelError: If there are several channels or layers, or values that int32 does not hold.
        GeometryError: If the label map does not lie on the grid of ``like``.
        VolumeError: If the header of ``like`` cannot be used.
    """
    dtype = choose_label_dtype(label_map)
    extension = NO_EXTENSION if structures is None else build_extension(structures)
    header = build_nifti_header(label_map, 1, dtype, like=like, affine=affine)
    write_nifti_pieces(header, iterate_file_order(label_map.array[0], dtype), path, description, extension)


def write_nifti_image(volume: Volume, path: Path, *, description: str = "") -> None:
    """Write an image, whole or not at all, in its own dtype, with channels as fourth axis.

    NIfTI has no bool and no float16: these become uint8 and float32.

    Raises:
        OutputError: If the name does not end in .nii or .nii.gz, or the file cannot be written.
    """
    array = volume.array
    dtype = array.dtype
    if dtype in (np.bool_, np.float16):
        dtype = np.dtype(np.uint8 if dtype == np.bool_ else np.float32)
    header = build_nifti_header(volume, volume.num_channels, dtype)
    pieces = (piece for channel in array for piece in iterate_file_order(channel, dtype))
    write_nifti_pieces(header, pieces, path, description)


def encode_nifti(volume: Volume, *, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """The first channel as the bytes of a ``.nii.gz``, for pages that hold their scan.

    Args:
        volume: ``(C, I, J, K)``; its dtype is stored as it is.
        slope: What a reader multiplies the stored voxels with.
        intercept: What it adds then.
    """
    channel = volume.array[0]
    header = build_nifti_header(volume, 1, channel.dtype)
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"] = int(header["sizeof_hdr"]) + len(NO_EXTENSION)
    packed = io.BytesIO()
    with open_gzip_writer(packed) as stream:
        stream.write(header.binaryblock + NO_EXTENSION)
        for piece in iterate_file_order(channel, channel.dtype):
            stream.write(piece.astype(header.get_data_dtype(), copy=False).data)
    return packed.getvalue()


def to_nibabel(label_map: Volume) -> Any:
    """A label map as an in-memory ``nibabel.Nifti1Image``."""
    array = to_label_array(label_map)
    return nib.Nifti1Image(array, label_map.affine, build_nifti_header(label_map, 1, array.dtype))


def check_nifti_name(path: Path) -> None:
    """Refuse another ending than .nii and .nii.gz.

    Raises:
        OutputError: With the endings.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        msg = f"Cannot write {path}: the name must end in .nii or .nii.gz. Nothing was changed."
        raise OutputError(msg)


def build_nifti_header(
    grid: Volume, num_channels: int, dtype: np.dtype[Any], *, like: Path | None = None, affine: Form | None = None
) -> Any:
    """A header for voxels on a grid, without scaling.

    Args:
        grid: Where the voxels lie; its own are not looked at.
        num_channels: One, or the length of a fourth axis.
        dtype: Of the voxels.
        like: As `write_nifti_labels`.
        affine: As `write_nifti_labels`.

    Raises:
        GeometryError: If ``grid`` is not that of ``like``.
        VolumeError: If the header of ``like`` cannot be used.
    """
    shape = grid.spatial_shape if num_channels == 1 else (*grid.spatial_shape, num_channels)
    return _build_header(shape, dtype, grid.affine) if like is None else _build_like(shape, dtype, grid, like, affine)


def write_nifti_pieces(
    header: Any, pieces: Iterable[Array], path: Path, description: str = "", extension: bytes = NO_EXTENSION
) -> None:
    """Write a file, whole or not at all, without holding all of it.

    Args:
        header: Of `build_nifti_header`.
        pieces: The voxels in the order of the file, C-contiguous; taken one after the other.
        path: Where to.
        description: Text for ``descrip``.
        extension: What stands between header and voxels.

    Raises:
        OutputError: If the name has another ending, or the file cannot be written.
    """
    check_nifti_name(path)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["vox_offset"] = int(header["sizeof_hdr"]) + len(extension)
    with open_atomic(path) as file:
        is_packed = path.name.lower().endswith(".gz")
        with open_gzip_writer(file) if is_packed else contextlib.nullcontext(file) as stream:
            # Written by hand, because nibabel would "harmonise" geometry fields that must keep their bits.
            stream.write(header.binaryblock + extension)
            for piece in pieces:
                stream.write(piece.astype(header.get_data_dtype(), copy=False).data)


def _build_header(shape: tuple[int, ...], dtype: np.dtype[Any], affine: Affine) -> Any:
    """A fresh header with the affine as sform, and as qform where that can hold it: some readers know only one of them."""
    header = _start_header(shape, dtype, nib.Nifti1Header if max(shape) < 2**15 else nib.Nifti2Header)
    header.set_qform(affine, code="aligned")
    header.set_sform(affine, code="aligned")
    if np.abs(header.get_qform()[:3, :3] - affine[:3, :3]).max() > 1e-5 * np.abs(affine[:3, :3]).max():
        header["qform_code"] = 0  # a sheared affine is no rotation
    header.set_xyzt_units(xyz="mm")
    return header


def _start_header(shape: tuple[int, ...], dtype: np.dtype[Any], header_class: Any) -> Any:
    header = header_class(endianness="<")
    header.set_data_dtype(dtype.newbyteorder("<"))
    header.set_data_shape(shape)
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _build_like(shape: tuple[int, ...], dtype: np.dtype[Any], volume: Volume, like: Path, affine: Form | None) -> Any:
    """A header whose geometry fields are the bits of the scan's header, and nothing else of it."""
    source, grid = read_nifti_grid(like, affine)
    check_same_grid(volume, grid, "The mask", str(like))
    header = _start_header(shape, dtype, nib.Nifti2Header if int(source["sizeof_hdr"]) == 540 else nib.Nifti1Header)
    for field in (
        "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
        "srow_x", "srow_y", "srow_z", "xyzt_units",
    ):  # fmt: skip
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    return header
