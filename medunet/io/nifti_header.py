"""NIfTI-1 and NIfTI-2 headers, from bytes and field by field, before any voxel is touched.

nibabel decodes the fields; its repairs of odd values are left out, each value is judged here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

from medunet.errors import VolumeError
from medunet.io.content_kind import describe_content
from medunet.io.voxels import check_real

HEADER_BYTES = 540  # NIfTI-2; a NIfTI-1 header has 348
_CIFTI_INTENTS = range(3000, 3100)  # matrices over brain surfaces (https://www.nitrc.org/projects/cifti)
_ICO7_SURFACE = (27307, 1, 6)  # how FreeSurfer folds the 163842 vertices of a surface into a NIfTI-1 header


def parse_header(head: bytes, name: str, *, is_pair: bool = False) -> Any:
    """The header as nibabel object, with every field as it stands in the file.

    Args:
        head: The first `HEADER_BYTES` of the file, or all of a shorter one.
        name: What messages call the file.
        is_pair: Whether the voxels lie in a file of their own.

    Raises:
        VolumeError: If the bytes are no NIfTI header, or that of a file which holds no volume.
    """
    size, byte_order = _measure_header(head)
    if size == 0 or len(head) < size:
        kind = describe_content(head) if size == 0 else f"cut short, {len(head)} of {size} header bytes"
        msg = f"{name} is no NIfTI file: it is {kind}; expected {_expected(is_pair)}. Convert it or fetch it again."
        raise VolumeError(msg)
    if size == 348:
        header_class = Nifti1PairHeader if is_pair else Nifti1Header
    else:
        header_class = Nifti2PairHeader if is_pair else Nifti2Header
    header = header_class(head[:size], endianness=byte_order, check=False)
    _check_magic(header, name, is_pair)
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        msg = f"{name} is a CIFTI file (data on brain surfaces); expected a volume. Export a volume from it first."
        raise VolumeError(msg)
    return header


def _expected(is_pair: bool) -> str:
    return "the .hdr half of a NIfTI pair" if is_pair else ".nii or .nii.gz"


def _measure_header(head: bytes) -> tuple[int, str]:
    """Header size and byte order: 348 is NIfTI-1, 540 NIfTI-2, 0 anything else."""
    for byte_order, word in (("<", "little"), (">", "big")):
        size = int.from_bytes(head[:4], word)  # type: ignore[arg-type]
        if size in (348, 540) and len(head) >= 4:
            return size, byte_order
    return 0, "<"


def _check_magic(header: Any, name: str, is_pair: bool) -> None:
    magic = header["magic"].item()
    version = 2 if isinstance(header, Nifti2Header) else 1
    pair, single = f"ni{version}".encode(), f"n+{version}".encode()
    if magic == (pair if is_pair else single):
        return
    if magic == (single if is_pair else pair):
        other = "a single file, not half of a pair" if is_pair else "the header of a .hdr/.img pair"
        found = f"says in its magic field that it is {other}"
    elif is_pair:
        msg = f"{name} is an Analyze 7.5 file, which does not say left from right; convert it to NIfTI first."
        raise VolumeError(msg)
    else:
        found = f"has a magic field that is neither {single.decode()!r} nor {pair.decode()!r}"
    msg = f"{name} {found}; expected {_expected(is_pair)}. Rename it or convert it again."
    raise VolumeError(msg)


def get_stored_shape(header: Any, name: str) -> tuple[int, ...]:
    """The axis lengths that the header claims, all positive.

    Raises:
        VolumeError: If an axis is missing, empty or negative, or if the file holds a surface.
    """
    num_axes, *sizes = (int(n) for n in header["dim"])
    shape = tuple(sizes[: max(num_axes, 0)])
    if not 1 <= num_axes <= 7 or min(shape) < 1:
        msg = (
            f"{name} has dim = {[num_axes, *sizes]} in its header; expected a number of axes (1 to 7) and that many "
            "positive sizes. The file is damaged; convert it again."
        )
        raise VolumeError(msg)
    if shape[:3] == _ICO7_SURFACE:
        msg = f"{name} holds the vertices of a FreeSurfer surface; expected a volume. Project it into a volume first."
        raise VolumeError(msg)
    return shape


def get_stored_dtype(header: Any, name: str) -> np.dtype[Any]:
    """The voxel type in the byte order of the file.

    Raises:
        VolumeError: If a voxel is anything but one real number, or two fields contradict each other.
    """
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError as error:
        code = int(header["datatype"])
        msg = f"{name} has datatype = {code} in its header, which NIfTI does not know. Convert it again."
        raise VolumeError(msg) from error
    check_real(dtype, name)
    num_bits = int(header["bitpix"])
    if num_bits not in (0, 8 * dtype.itemsize):  # some programs leave it at 0
        msg = (
            f"{name} has datatype = {int(header['datatype'])} ({dtype.name}) and bitpix = {num_bits} in its header; "
            f"expected bitpix = {8 * dtype.itemsize}. It is damaged; convert it again."
        )
        raise VolumeError(msg)
    return dtype


def get_voxel_offset(header: Any, name: str, *, is_pair: bool = False) -> int:
    """Bytes before the first voxel.

    Raises:
        VolumeError: If the offset is no whole number, or lies inside the header.
    """
    offset = float(header["vox_offset"])
    lowest = 0 if is_pair else int(header["sizeof_hdr"]) + 4  # four bytes announce extensions
    if not offset.is_integer() or offset < lowest:
        msg = f"{name} has vox_offset = {offset:g} in its header; expected {lowest} or more. Convert it again."
        raise VolumeError(msg)
    return int(offset)


def get_scaling(header: Any, name: str) -> tuple[float, float]:
    """Slope and intercept; ``(1.0, 0.0)`` where the header asks for none.

    Raises:
        VolumeError: If a slope comes with an intercept that is no number.
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):  # by the standard: no scaling
        return 1.0, 0.0
    if not math.isfinite(inter):
        msg = f"{name} has scl_inter = {inter} in its header; expected a number. Repair the header or convert it again."
        raise VolumeError(msg)
    return slope, inter
