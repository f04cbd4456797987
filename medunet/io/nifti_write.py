"""`Volume` to NIfTI-1 and NIfTI-2 files; a mask keeps the bits of its scan's geometry and nothing else of it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medunet.errors import OutputError
from medunet.io.atomic import write_bytes_atomic
from medunet.io.nifti_affine import Form
from medunet.io.nifti_labels import build_extension
from medunet.io.nifti_read import read_nifti_grid
from medunet.io.structures import StructureSet
from medunet.io.voxels import to_label_array
from medunet.volume import Affine, Array, Volume, check_same_grid

_NO_EXTENSION = bytes(4)


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
    array = to_label_array(label_map)
    extension = _NO_EXTENSION if structures is None else build_extension(structures)
    if like is None:
        header = _build_header(array, label_map.affine)
    else:
        header = _build_header_like(label_map, array, like, affine)
    _write_image(header, array, path, description, extension)


def write_nifti_image(volume: Volume, path: Path, *, description: str = "") -> None:
    """Write an image, whole or not at all, in its own dtype, with channels as fourth axis.

    NIfTI has no bool and no float16: these become uint8 and float32.

    Raises:
        OutputError: If the name does not end in .nii or .nii.gz, or the file cannot be written.
    """
    array = volume.array[0] if volume.num_channels == 1 else np.moveaxis(volume.array, 0, -1)
    if array.dtype in (np.bool_, np.float16):
        array = array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
    _write_image(_build_header(array, volume.affine), array, path, description)


def to_nibabel(label_map: Volume) -> Any:
    """A label map as an in-memory ``nibabel.Nifti1Image``."""
    array = to_label_array(label_map)
    return nib.Nifti1Image(array, label_map.affine, _build_header(array, label_map.affine))


def _write_image(header: Any, array: Array, path: Path, description: str, extension: bytes = _NO_EXTENSION) -> None:
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        msg = f"Cannot write {path}: the name must end in .nii or .nii.gz. Nothing was changed."
        raise OutputError(msg)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["vox_offset"] = int(header["sizeof_hdr"]) + len(extension)
    # Written by hand, because nibabel would "harmonise" geometry fields that must keep their bits.
    content = header.binaryblock + extension + array.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    if name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)  # no time stamp: same mask, same bytes
    write_bytes_atomic(path, content)


def _build_header(array: Array, affine: Affine) -> Any:
    """A fresh header with the affine as sform, and as qform where that can hold it: some readers know only one of them."""
    header = _start_header(array, nib.Nifti1Header if max(array.shape) < 2**15 else nib.Nifti2Header)
    header.set_qform(affine, code="aligned")
    header.set_sform(affine, code="aligned")
    if np.abs(header.get_qform()[:3, :3] - affine[:3, :3]).max() > 1e-5 * np.abs(affine[:3, :3]).max():
        header["qform_code"] = 0  # a sheared affine is no rotation
    header.set_xyzt_units(xyz="mm")
    return header


def _start_header(array: Array, header_class: Any) -> Any:
    header = header_class(endianness="<")
    header.set_data_dtype(array.dtype.newbyteorder("<"))
    header.set_data_shape(array.shape)
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _build_header_like(label_map: Volume, array: Array, like: Path, affine: Form | None) -> Any:
    """A header whose geometry fields are the bits of the scan's header, and nothing else of it."""
    source, grid = read_nifti_grid(like, affine)
    check_same_grid(label_map, grid, "The mask", str(like))
    header = _start_header(array, nib.Nifti2Header if int(source["sizeof_hdr"]) == 540 else nib.Nifti1Header)
    for field in (
        "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
        "srow_x", "srow_y", "srow_z", "xyzt_units",
    ):  # fmt: skip
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    return header
