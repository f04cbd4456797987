"""NIfTI-1 and NIfTI-2 headers, from bytes and field by field, before any voxel is touched.

nibabel decodes the fields; its repairs are passed on as warnings that name the file. Header extensions are skipped by
their size and never parsed: nothing here needs them and they may name a patient. Affines are RAS+ mm, sform before
qform (https://nifti.nimh.nih.gov/nifti-1/documentation/faq).
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

from medunet.errors import VolumeError
from medunet.io.content_kind import describe_content
from medunet.volume import Affine

logger = logging.getLogger(__name__)

HEADER_BYTES = 540  # NIfTI-2; a NIfTI-1 header has 348
SHEAR_TOLERANCE_DEGREES = 0.5
_LARGEST_MM, _SMALLEST_MM = 1e7, 1e-7  # ten kilometres and an ångström: garbage beyond, and float32 overflows soon
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron
_CIFTI_INTENTS = range(3000, 3100)  # matrices over brain surfaces (https://www.nitrc.org/projects/cifti)
_ICO7_SURFACE = (27307, 1, 6)  # how FreeSurfer folds the 163842 vertices of a surface into a NIfTI-1 header


def parse_header(head: bytes, name: str, *, is_pair: bool = False) -> Any:
    """The header as nibabel object, checked and repaired where the repair is certain.

    Args:
        head: The first `HEADER_BYTES` of the file, or all of a shorter one.
        name: What messages call the file.
        is_pair: Whether the voxels lie in a file of their own.

    Raises:
        VolumeError: If the bytes are no NIfTI header, or a field holds what it must not.
    """
    header = parse_raw_header(head, name, is_pair=is_pair)
    get_stored_dtype(header, name)  # nibabel would refuse these two without naming the field
    get_voxel_offset(header, name, is_pair=is_pair)
    header, repairs = repair_header(header)
    for repair in repairs:
        logger.warning("%s has an odd header: %s.", name, repair)
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        msg = f"{name} is a CIFTI file (data on brain surfaces); expected a volume. Export a volume from it first."
        raise VolumeError(msg)
    return header


def parse_raw_header(head: bytes, name: str, *, is_pair: bool = False) -> Any:
    """The header as nibabel object with every field as it stands in the file.

    Raises:
        VolumeError: If the bytes are no NIfTI header.
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
    return header


def repair_header(raw_header: Any) -> tuple[Any, list[str]]:
    """A copy in which nibabel has mended what has one obvious meaning, and what it says about that."""
    header, log = raw_header.copy(), _Log()
    header.check_fix(logger=log, error_level=40)
    return header, log.warnings


class _Log:
    """Takes the place of nibabel's logger, which would print to the terminal without naming the file."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def log(self, level: int, message: str) -> None:
        if level >= logging.WARNING:
            self.warnings.append(message)


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
        VolumeError: If a voxel is anything but one real number.
    """
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError as error:
        code = int(header["datatype"])
        msg = f"{name} has datatype = {code} in its header, which NIfTI does not know. Convert it again."
        raise VolumeError(msg) from error
    check_real(dtype, name)
    return dtype


def check_real(dtype: np.dtype[Any], name: str) -> None:
    """Refuse complex, colour and other voxels that are not one real number.

    Raises:
        VolumeError: With the type.
    """
    if dtype.kind in "biuf" and dtype.itemsize:
        return
    what = "colour" if dtype.fields else dtype.name if dtype.itemsize else "1-bit"
    msg = f"{name} holds {what} voxels; expected one real number per voxel and channel. Convert it first."
    raise VolumeError(msg)


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


def read_affine(header: Any, name: str) -> Affine:
    """The sform, else the qform, in millimetres.

    Raises:
        VolumeError: If the units are unknown, or the affine is not finite, singular or sheared.
    """
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except ValueError as error:
        msg = f"{name} has a qform with impossible quatern fields ({error}); expected a rotation. Repair its header."
        raise VolumeError(msg) from error
    return check_affine(to_mm(affine, header, name), name)


def to_mm(affine: Affine, header: Any, name: str) -> Affine:
    """An affine in the length unit of the header, in millimetres.

    Raises:
        VolumeError: If NIfTI does not know the unit.
    """
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        msg = (
            f"{name} has the length unit {unit} in xyzt_units; expected 1 (m), 2 (mm) or 3 (micron). Repair its header."
        )
        raise VolumeError(msg)
    return np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0]) @ affine


def check_affine(affine: Affine, name: str) -> Affine:
    """The same affine, if a volume can stand on it.

    Raises:
        VolumeError: If it is not finite, singular or sheared.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        msg = f"{name} has an affine with NaN or infinite entries; expected 4x4 finite numbers. Repair its header."
        raise VolumeError(msg)
    if np.abs(affine).max() > _LARGEST_MM:
        largest = f"{np.abs(affine).max():.3g} mm"
        msg = (
            f"{name} has an affine with entries up to {largest}; expected {_LARGEST_MM:.0e} at most. Repair its header."
        )
        raise VolumeError(msg)
    matrix = affine[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if lengths.min() < _SMALLEST_MM or abs(np.linalg.det(matrix / lengths)) < 1e-3:
        msg = f"{name} has a singular affine {matrix.tolist()}; expected three independent axes. Repair its header."
        raise VolumeError(msg)
    axes = matrix / lengths
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    shear_degrees = math.degrees(math.asin(min(1.0, cosines)))
    if shear_degrees > SHEAR_TOLERANCE_DEGREES:
        msg = (
            f"{name} has a sheared affine (axes {shear_degrees:.1f} degrees from square); expected axes at right "
            "angles. Resample it to a rectangular grid first."
        )
        raise VolumeError(msg)
    return affine


def warn_about_geometry(header: Any, name: str) -> None:
    """Say where the header leaves the position open, or gives two that differ by more than half a voxel."""
    has_sform, has_qform = int(header["sform_code"]) != 0, int(header["qform_code"]) != 0
    if not has_sform and not has_qform:
        logger.warning(
            "%s says neither sform nor qform: position and left/right are guessed from the voxel sizes.", name
        )
    if not (has_sform and has_qform):
        return
    try:
        difference = header.get_sform() - header.get_qform()
    except ValueError:
        return  # an unusable qform does not matter beside a good sform
    sizes = [*(int(n) for n in header["dim"][1:4]), 1]
    corners = np.array([[i, j, k, 1] for i in (0, sizes[0]) for j in (0, sizes[1]) for k in (0, sizes[2])]).T
    distance = float(np.linalg.norm((difference @ corners)[:3], axis=0).max())
    if not distance <= 0.5 * float(np.linalg.norm(header.get_sform()[:3, :3], axis=0).min()):
        logger.warning(
            "%s has an sform and a qform that differ by up to %.1f units; the sform is used.", name, distance
        )
