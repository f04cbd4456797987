"""NIfTI-1 and NIfTI-2 files to and from `Volume`, by nibabel, with the checks that nibabel leaves out.

nibabel reads the voxels but not the gzip trailer (a flipped bit would load silently), and it believes the size that a
header claims (a 350-byte file may claim a terabyte). So the claim is compared with the file before anything is
allocated, and a compressed stream is read up to its checksum. Affines are RAS+ mm, sform before qform
(https://nifti.nimh.nih.gov/nifti-1/documentation/faq).
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medunet.errors import OutputError, VolumeError
from medunet.io.atomic import write_bytes_atomic
from medunet.volume import Affine, Array, Volume

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")
SHEAR_TOLERANCE_DEGREES = 0.5
_DEFLATE_MAX_RATIO = 1032  # deflate cannot compress better (https://zlib.net/zlib_tech.html): a larger claim is a lie
_TRAILING_LIMIT_BYTES = 64 * 2**20  # padding after the voxels that is still read for the checksum
_MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
_HEADER_BYTES = 540  # NIfTI-2; a NIfTI-1 header has 348


def is_nifti(path: Path) -> bool:
    """Whether the name ends like a NIfTI file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def strip_nifti_suffix(name: str) -> str:
    """The name without its ending.

    Example:
        >>> strip_nifti_suffix("p012.nii.gz")
        'p012'
    """
    for suffix in NIFTI_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_nifti(path: Path) -> Volume:
    """Read an image; a fourth axis becomes channels.

    Returns:
        Volume with the integer type of the file, or float32 where the file is float or has a slope.

    Raises:
        VolumeError: If the file is missing, is no NIfTI file, is damaged, holds NaN, complex or colour voxels, or has
            an affine that is not finite, singular or sheared.
    """
    return from_nibabel(_load_image(path), str(path))


def from_nibabel(image: Any, name: str = "the nibabel image") -> Volume:
    """Take over a nibabel image in memory, by the rules of `read_nifti`.

    Raises:
        VolumeError: As `read_nifti`; ``name`` stands for the file.
    """
    array = _read_array(image, name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        num_bad = int((~np.isfinite(array)).sum())
        msg = (
            f"{name} holds {num_bad} NaN or infinite voxels of {array.size}; expected finite intensities. "
            "Replace them, for example by the background value, and try again."
        )
        raise VolumeError(msg)
    return Volume(array, _read_affine(image.header, name))


def write_nifti_labels(label_map: Volume, path: Path, *, like: Path | None = None, description: str = "") -> None:
    """Write a label map, whole or not at all, in the smallest of uint8, int16 and int32 that holds it.

    Args:
        label_map: ``(1, I, J, K)`` of an integer type.
        path: Where to; ends in ``.nii`` or ``.nii.gz``.
        like: The scan that the mask belongs to. Its geometry fields are kept bit for bit; its free text
            (``descrip``, ``aux_file``, ``intent_name``, ``db_name``, extensions) is not: it may name a patient.
        description: Text for ``descrip``, at most 79 bytes.

    Raises:
        OutputError: If the name has another ending, or the file cannot be written.
    """
    array = label_map.array[0]
    _write_image(array.astype(_choose_label_dtype(array)), label_map.affine, path, like, description)


def write_nifti_image(volume: Volume, path: Path, *, description: str = "") -> None:
    """Write an image, whole or not at all, in its own dtype, with channels as fourth axis.

    Raises:
        OutputError: If the name does not end in .nii or .nii.gz, or the file cannot be written.
    """
    array = volume.array[0] if volume.num_channels == 1 else np.moveaxis(volume.array, 0, -1)
    _write_image(array, volume.affine, path, None, description)


def to_nibabel(label_map: Volume) -> Any:
    """A label map as an in-memory ``nibabel.Nifti1Image``."""
    array = label_map.array[0]
    return nib.Nifti1Image(array.astype(_choose_label_dtype(array)), label_map.affine)


def check_regular_file(path: Path) -> None:
    """Refuse what is missing, a folder, a pipe or a device, without opening it (a pipe would hang).

    Raises:
        VolumeError: With what was found.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        what = "is a link to a file that is gone" if path.is_symlink() else "does not exist"
        raise VolumeError(f"{path} {what}. Check the path.") from error  # noqa: EM102
    except OSError as error:
        raise VolumeError(f"{path} cannot be opened: {error.strerror}.") from error  # noqa: EM102
    if stat.S_ISDIR(mode):
        msg = f"{path} is a folder; expected a file ending in {', '.join(NIFTI_SUFFIXES)}."
        raise VolumeError(msg)
    if not stat.S_ISREG(mode):
        msg = f"{path} is a pipe or a device; expected a regular file. Copy it to a file first."
        raise VolumeError(msg)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _load_image(path: Path) -> Any:
    """A nibabel image whose voxels are known to be there."""
    check_regular_file(path)
    try:
        if path.name.lower().endswith((".hdr", ".img")):
            return _load_pair(path)
        content = _read_checked(path)
        kind = nib.Nifti2Image if _header_size(content) == 540 else nib.Nifti1Image
        return kind.from_bytes(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{path} is damaged (its compressed data are cut short or fail the checksum); copy it from its source again."
        raise VolumeError(msg) from error
    except (ImageFileError, HeaderDataError, ValueError, OSError, OverflowError) as error:
        if isinstance(error, VolumeError):
            raise
        msg = f"{path} cannot be read as NIfTI ({_first_line(error)}). Check the file, or convert it again."
        raise VolumeError(msg) from error


def _load_pair(path: Path) -> Any:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        msg = f"{path} is an Analyze 7.5 file, which does not say left from right; convert it to NIfTI first."
        raise VolumeError(msg)
    voxels = path.with_suffix(".img")
    _check_claim(image.header, voxels, voxels.stat().st_size)
    return image


def _read_checked(path: Path) -> bytes:
    """The uncompressed bytes of a single-file NIfTI, read to the gzip checksum, never more than its header claims."""
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if is_compressed else raw  # type: ignore[assignment]
        head = stream.read(_HEADER_BYTES)
        header = _parse_header(head, path)
        available = path.stat().st_size * (_DEFLATE_MAX_RATIO if is_compressed else 1)
        num_bytes = _check_claim(header, path, available)
        content = head + stream.read(max(0, num_bytes - len(head)))
        if len(content) < num_bytes:
            msg = (
                f"{path} is cut short: its header promises {num_bytes} bytes, the file holds {len(content)}. "
                "Copy it from its source again."
            )
            raise VolumeError(msg)
        _drain(stream, path)
    return content


def _header_size(head: bytes) -> int:
    """348 for NIfTI-1, 540 for NIfTI-2, in either byte order; 0 for anything else."""
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    return next((size for size in (348, 540) if size in sizes), 0)


def _parse_header(head: bytes, path: Path) -> Any:
    size = _header_size(head)
    if size == 0 or len(head) < size:
        start = head[:16].decode("ascii", "replace").strip() if head else "nothing"
        msg = f"{path} is no NIfTI file (it starts with {start!r}); expected .nii or .nii.gz. Convert it first."
        raise VolumeError(msg)
    kind = nib.Nifti2Header if size == 540 else nib.Nifti1Header
    return kind.from_fileobj(io.BytesIO(head))


def _check_claim(header: Any, path: Path, available_bytes: int) -> int:
    """Bytes that header and voxels need, after the claim was held against what the file can hold."""
    shape = [int(n) for n in header.get_data_shape()]
    if not shape or min(shape) < 1:
        msg = f"{path} has the shape {shape} in its header; expected 3 positive sizes. The file is damaged."
        raise VolumeError(msg)
    num_bytes = int(header.get_data_offset()) + math.prod(shape) * int(header.get_data_dtype().itemsize)
    if num_bytes > available_bytes:
        size = path.stat().st_size
        msg = (
            f"{path} is cut short or damaged: its header promises {'x'.join(map(str, shape))} voxels ({num_bytes} bytes), "
            f"the file has {size} bytes. Copy it from its source again."
        )
        raise VolumeError(msg)
    return num_bytes


def _drain(stream: BinaryIO, path: Path) -> None:
    """Read on to the end, so that gzip compares its checksum."""
    num_bytes = 0
    while chunk := stream.read(2**20):
        num_bytes += len(chunk)
        if num_bytes > _TRAILING_LIMIT_BYTES:
            msg = f"{path} holds more than {num_bytes} bytes after its voxels; expected none. The file is damaged."
            raise VolumeError(msg)


def _read_array(image: Any, name: str) -> Array:
    """Voxels as ``(C, I, J, K)`` in native byte order."""
    dtype = image.get_data_dtype()
    if dtype.kind not in "biuf":
        what = "colour" if dtype.fields else f"{dtype.name}"
        msg = f"{name} holds {what} voxels; expected one real number per voxel and channel. Convert it first."
        raise VolumeError(msg)
    try:
        voxels = _read_scaled(image.dataobj)
    except (OSError, ValueError, EOFError) as error:
        msg = f"{name} cannot be read: {_first_line(error)}. The file is cut short or damaged."
        raise VolumeError(msg) from error
    if voxels.ndim > 4 and all(n == 1 for n in voxels.shape[3:-1]):
        voxels = voxels.reshape(*voxels.shape[:3], voxels.shape[-1])  # (I, J, K, 1, ..., C): a vector image
    if not 2 <= voxels.ndim <= 4:
        msg = f"{name} has {voxels.ndim} axes ({'x'.join(map(str, voxels.shape))}); expected 3, or 4 with channels last."
        raise VolumeError(msg)
    voxels = voxels.reshape(voxels.shape + (1,) * (4 - voxels.ndim))  # (I, J, K, C)
    return np.ascontiguousarray(np.moveaxis(voxels, -1, 0))


def _read_scaled(data: Any) -> Array:
    if not hasattr(data, "get_unscaled"):
        voxels = np.asanyarray(data)  # an array in memory, not a file behind a proxy
    elif (data.slope, data.inter) == (1.0, 0.0):
        voxels = data.get_unscaled()
    else:
        # By hand, because nibabel would scale in float64 and double the memory.
        voxels = data.get_unscaled().astype(np.float32)
        voxels *= np.float32(data.slope)
        voxels += np.float32(data.inter)
    if voxels.dtype.kind == "f":
        return np.asarray(voxels, dtype=np.float32)
    if voxels.dtype.kind == "b":
        return np.asarray(voxels, dtype=np.uint8)
    return np.asarray(voxels, dtype=voxels.dtype.newbyteorder("="))


def _read_affine(header: Any, name: str) -> Affine:
    """The sform, else the qform, in millimetres."""
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(affine).all():
        msg = f"{name} has an affine with NaN or infinite entries; expected voxel-to-world millimetres. Repair its header."
        raise VolumeError(msg)
    if hasattr(header, "get_sform") and int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        logger.warning(
            "%s says neither sform nor qform: position and left/right are guessed from the voxel sizes.", name
        )
    if hasattr(header, "get_xyzt_units"):
        unit = header.get_xyzt_units()[0]
        affine = np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0]) @ affine
    _check_shear(affine, name)
    return affine


def _check_shear(affine: Affine, name: str) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths < 1e-6).any() or abs(np.linalg.det(affine[:3, :3] / np.maximum(lengths, 1e-6))) < 1e-3:
        msg = f"{name} has a singular affine {affine[:3, :3].tolist()}; expected three independent axes. Repair its header."
        raise VolumeError(msg)
    axes = affine[:3, :3] / lengths
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    shear_degrees = math.degrees(math.asin(min(1.0, cosines)))
    if shear_degrees > SHEAR_TOLERANCE_DEGREES:
        msg = (
            f"{name} has a sheared affine (axes {shear_degrees:.1f} degrees from square); expected axes at right angles. "
            "Resample it to a rectangular grid first."
        )
        raise VolumeError(msg)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write_image(array: Array, affine: Affine, path: Path, like: Path | None, description: str) -> None:
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        msg = f"Cannot write {path}: the name must end in .nii or .nii.gz."
        raise OutputError(msg)
    image = nib.Nifti1Image(array, affine) if like is None else _build_image_like(array, like)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units(xyz=image.header.get_xyzt_units()[0] if like else "mm")
    content = image.to_bytes()
    if name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)  # no time stamp: same mask, same bytes
    write_bytes_atomic(path, content)


def _build_image_like(array: Array, like: Path) -> Any:
    """A mask image whose geometry fields are the bits of the scan's header."""
    source = _load_header(like)
    is_nifti2 = isinstance(source, nib.Nifti2Header)
    image = (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image)(array, source.get_best_affine())
    for field in (
        "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
        "srow_x", "srow_y", "srow_z", "xyzt_units",
    ):  # fmt: skip
        image.header[field] = source[field]
    image.header["pixdim"][:4] = source["pixdim"][:4]
    return image


def _load_header(path: Path) -> Any:
    if path.name.lower().endswith((".hdr", ".img")):
        return nib.load(path).header
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if is_compressed else raw  # type: ignore[assignment]
        return _parse_header(stream.read(_HEADER_BYTES), path)


def _choose_label_dtype(array: Array) -> type[np.integer[Any]]:
    lowest, highest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if lowest >= 0 and highest <= 255:
        return np.uint8
    return np.int16 if lowest >= -(2**15) and highest < 2**15 else np.int32
