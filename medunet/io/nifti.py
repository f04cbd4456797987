"""NIfTI-1 and NIfTI-2 files to and from `Volume`, with the checks that nibabel leaves out.

nibabel does not read the gzip trailer (a flipped bit would load silently), and it believes the size that a header
claims (a 350-byte file may claim a terabyte). So the claim is compared with the file before anything is allocated, and
a compressed stream is read up to its checksum.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medunet.errors import LabelError, OutputError, VolumeError
from medunet.io.atomic import write_bytes_atomic
from medunet.io.nifti_header import (
    HEADER_BYTES,
    check_affine,
    check_real,
    get_scaling,
    get_stored_dtype,
    get_stored_shape,
    get_voxel_offset,
    parse_header,
    parse_raw_header,
    read_affine,
    repair_header,
    to_mm,
    warn_about_geometry,
)
from medunet.volume import Affine, Array, Volume, check_same_grid

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")
_DEFLATE_MAX_RATIO = 1032  # deflate cannot compress better (https://zlib.net/zlib_tech.html): a larger claim is a lie
_TRAILING_LIMIT_BYTES = 64 * 2**20  # padding after the voxels that is still read for the checksum
_CHUNK_BYTES = 2**22


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
    name = str(path)
    with _explain_failures(name):
        header, voxels = _load(path)
        affine = read_affine(header, name)
        warn_about_geometry(header, name)
        return _build_volume(voxels, get_scaling(header, name), affine, name)


def from_nibabel(image: Any, name: str = "the nibabel image") -> Volume:
    """Take over a nibabel image in memory, by the rules of `read_nifti`.

    Raises:
        VolumeError: As `read_nifti`; ``name`` stands for the file.
    """
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        msg = f"{name} is of the kind Analyze 7.5, which does not say left from right; convert it to NIfTI first."
        raise VolumeError(msg)
    with _explain_failures(name):
        check_real(np.dtype(image.dataobj.dtype), name)
        voxels, scaling = _get_stored_voxels(image.dataobj)
        return _build_volume(voxels, scaling, _get_affine_of_image(image, name), name)


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
        LabelError: If there are several channels, or values that int32 does not hold.
        GeometryError: If the label map does not lie on the grid of ``like``.
    """
    array = to_label_array(label_map)
    header = _build_header(array, label_map.affine) if like is None else _build_header_like(label_map, array, like)
    _write_image(header, array, path, description)


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


def to_label_array(label_map: Volume) -> Array:
    """The labels ``(I, J, K)`` in the smallest of uint8, int16 and int32 that holds them.

    Raises:
        LabelError: If there are several channels, or values that int32 does not hold.
    """
    if label_map.num_channels != 1 or label_map.array.dtype.kind not in "biu":
        msg = (
            f"A label map has 1 channel of whole numbers; got {label_map.num_channels} of dtype "
            f"{label_map.array.dtype}. Turn the scores into classes first."
        )
        raise LabelError(msg)
    array: Array = label_map.array[0]
    lowest, highest = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= lowest and highest <= limits.max:
            narrow: Array = array.astype(dtype)
            return narrow
    msg = f"A label map holds values from {lowest} to {highest}; expected them to fit 32 bits. Renumber the labels."
    raise LabelError(msg)


def check_regular_file(path: Path) -> None:
    """Refuse what is missing, a folder, a pipe or a device, without opening it (a pipe would hang).

    Raises:
        VolumeError: With what was found.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        what = "is a link to a file that is gone" if path.is_symlink() else "does not exist"
        raise VolumeError(f"{path} {what}; expected a file. Check the path.") from error  # noqa: EM102
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise VolumeError(f"{path!s} cannot be opened: {reason}. Check the path and its permissions.") from error  # noqa: EM102
    if stat.S_ISDIR(mode):
        msg = f"{path} is a folder; expected a file ending in {', '.join(NIFTI_SUFFIXES)}. Give the path of one file."
        raise VolumeError(msg)
    if not stat.S_ISREG(mode):
        msg = f"{path} is a pipe or a device; expected a regular file. Copy it to a file first."
        raise VolumeError(msg)


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explain_failures(name: str) -> Iterator[None]:
    """Turn whatever Python, zlib and nibabel say about a bad file into one line that names it."""
    try:
        # Overflow to infinity is found, and reported, among the voxels.
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except VolumeError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
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


def _load(path: Path) -> tuple[Any, Array]:
    """The checked header and the voxels as they are stored, ``(I, J, K, ...)``."""
    is_pair = _is_pair(path)
    header_path, voxel_path = _get_pair_paths(path) if is_pair else (path, path)
    check_regular_file(header_path)
    check_regular_file(voxel_path)
    with _open(header_path) as stream:
        header = parse_header(stream.read(HEADER_BYTES), str(header_path), is_pair=is_pair)
    shape = get_stored_shape(header, str(header_path))
    dtype = get_stored_dtype(header, str(header_path))
    offset = get_voxel_offset(header, str(header_path), is_pair=is_pair)
    num_bytes = math.prod(shape) * dtype.itemsize
    with _open(voxel_path) as stream:
        _check_claim(shape, offset + num_bytes, voxel_path, isinstance(stream, gzip.GzipFile))
        buffer = _read_exactly(stream, offset, num_bytes, voxel_path)
        _drain(stream, voxel_path)
    return header, buffer.view(dtype).reshape(shape, order="F")


def _is_pair(path: Path) -> bool:
    return path.suffix.lower() in (".hdr", ".img")


def _get_pair_paths(path: Path) -> tuple[Path, Path]:
    """Header and voxel file; the other half is looked for in the case of the half that was given."""
    hdr, img = (".HDR", ".IMG") if path.suffix.isupper() else (".hdr", ".img")
    return (path, path.with_suffix(img)) if path.suffix.lower() == ".hdr" else (path.with_suffix(hdr), path)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes; the content says whether they are compressed, whatever the name says."""
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not is_compressed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]


def _check_claim(shape: tuple[int, ...], num_bytes: int, path: Path, is_compressed: bool) -> None:
    """Hold what the header claims against what a file of this size can hold, before memory is taken."""
    size = path.stat().st_size
    if num_bytes > size * (_DEFLATE_MAX_RATIO if is_compressed else 1):
        msg = (
            f"{path} is cut short or damaged: its header promises {'x'.join(map(str, shape))} voxels "
            f"({num_bytes} bytes), the file has {size} bytes. Copy it from its source again."
        )
        raise VolumeError(msg)


def _read_exactly(stream: BinaryIO, offset: int, num_bytes: int, path: Path) -> Array:
    """``num_bytes`` bytes from ``offset`` on; in chunks, because gzip would hold them twice."""
    stream.seek(offset)
    buffer = np.empty(num_bytes, dtype=np.uint8)  # takes no memory before it is filled
    done = 0
    while done < num_bytes and (chunk := stream.read(min(_CHUNK_BYTES, num_bytes - done))):
        buffer[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        done += len(chunk)
    if done < num_bytes:
        msg = (
            f"{path} is cut short: its header promises {num_bytes} bytes of voxels, the file holds {done}. "
            "Copy it from its source again."
        )
        raise VolumeError(msg)
    return buffer


def _drain(stream: BinaryIO, path: Path) -> None:
    """Read on to the end, so that gzip compares its checksum."""
    num_bytes = 0
    while chunk := stream.read(_CHUNK_BYTES):
        num_bytes += len(chunk)
        if num_bytes > _TRAILING_LIMIT_BYTES:
            msg = f"{path} holds over {num_bytes} bytes after its voxels; expected none. Convert it again."
            raise VolumeError(msg)
    if num_bytes:
        logger.warning("%s holds %d bytes after its voxels; they are ignored.", path, num_bytes)


def _get_stored_voxels(data: Any) -> tuple[Array, tuple[float, float]]:
    """Voxels and scaling of nibabel's ``dataobj``: an array in memory, or a proxy of a file."""
    if hasattr(data, "get_unscaled") and hasattr(data, "slope"):
        return data.get_unscaled(), (float(data.slope), float(data.inter))
    return np.asanyarray(data), (1.0, 0.0)


def _get_affine_of_image(image: Any, name: str) -> Affine:
    """The affine that the image carries, which its user may have changed, in the units of its header."""
    if not hasattr(image.header, "get_xyzt_units"):  # no NIfTI image: millimetres
        return check_affine(np.array(image.affine, dtype=np.float64), name)
    if image.affine is None:
        return read_affine(image.header, name)
    warn_about_geometry(image.header, name)
    return check_affine(to_mm(image.affine, image.header, name), name)


def _build_volume(voxels: Array, scaling: tuple[float, float], affine: Affine, name: str) -> Volume:
    array = to_working_dtype(_apply_scaling(voxels, *scaling))
    check_finite(array, name)
    return Volume(np.ascontiguousarray(_move_channels_first(array, name)), affine)


def _apply_scaling(voxels: Array, slope: float, inter: float) -> Array:
    if (slope, inter) == (1.0, 0.0):
        return voxels
    # By hand, because nibabel would scale in float64 and double the memory.
    scaled = voxels.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(inter)
    return scaled


def to_working_dtype(voxels: Array) -> Array:
    """Integers as they are in native byte order, bool as uint8, every float as float32; copies only if it must."""
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which `check_finite` reports
            return np.asarray(voxels, dtype=np.float32)
    if voxels.dtype.kind == "b":
        return np.asarray(voxels, dtype=np.uint8)
    return np.asarray(voxels, dtype=voxels.dtype.newbyteorder("="))


def check_finite(array: Array, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        VolumeError: With their count.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    num_bad = int((~np.isfinite(array)).sum())
    msg = (
        f"{name} holds {num_bad} NaN or infinite voxels of {array.size}; expected finite intensities. "
        "Replace them, for example by the background value, and try again."
    )
    raise VolumeError(msg)


def _move_channels_first(voxels: Array, name: str) -> Array:
    """``(I, J)``, ``(I, J, K)`` or ``(I, J, K, ..., C)`` with ones between, as ``(C, I, J, K)``."""
    shape = voxels.shape
    if voxels.ndim < 2 or sum(n > 1 for n in shape[3:]) > 1:
        axes = "x".join(map(str, shape))
        msg = f"{name} has {voxels.ndim} axes ({axes}); expected 3, or 4 with channels last. Split it first."
        raise VolumeError(msg)
    spatial_shape = (*shape, 1)[:3]
    voxels = voxels.reshape(*spatial_shape, math.prod(shape[3:]), order="F")  # (I, J, K, C)
    return np.moveaxis(voxels, -1, 0)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write_image(header: Any, array: Array, path: Path, description: str) -> None:
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        msg = f"Cannot write {path}: the name must end in .nii or .nii.gz. Nothing was changed."
        raise OutputError(msg)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    # Written by hand, because nibabel would "harmonise" geometry fields that must keep their bits.
    content = header.binaryblock + bytes(4) + array.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    if name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)  # no time stamp: same mask, same bytes
    write_bytes_atomic(path, content)


def _build_header(array: Array, affine: Affine) -> Any:
    """A fresh header with the affine as both sform and qform: some readers know only one of them."""
    header = _start_header(array, nib.Nifti1Header if max(array.shape) < 2**15 else nib.Nifti2Header)
    header.set_qform(affine, code="aligned")
    header.set_sform(affine, code="aligned")
    header.set_xyzt_units(xyz="mm")
    return header


def _start_header(array: Array, header_class: Any) -> Any:
    header = header_class(endianness="<")
    header.set_data_dtype(array.dtype.newbyteorder("<"))
    header.set_data_shape(array.shape)
    header["vox_offset"] = header.single_vox_offset  # right after the four bytes that announce no extensions
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _build_header_like(label_map: Volume, array: Array, like: Path) -> Any:
    """A header whose geometry fields are the bits of the scan's header, and nothing else of it."""
    with _explain_failures(str(like)):
        source = _read_raw_header(like)
        grid = _get_grid(source, like)
    check_same_grid(label_map, grid, "The mask", str(like))
    header = _start_header(array, nib.Nifti2Header if int(source["sizeof_hdr"]) == 540 else nib.Nifti1Header)
    for field in (
        "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
        "srow_x", "srow_y", "srow_z", "xyzt_units",
    ):  # fmt: skip
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    return header


def _read_raw_header(path: Path) -> Any:
    header_path = _get_pair_paths(path)[0] if _is_pair(path) else path
    check_regular_file(header_path)
    with _open(header_path) as stream:
        return parse_raw_header(stream.read(HEADER_BYTES), str(header_path), is_pair=_is_pair(path))


def _get_grid(raw_header: Any, path: Path) -> Volume:
    """The grid of a scan without its voxels."""
    header, _ = repair_header(raw_header)
    shape = (*get_stored_shape(header, str(path)), 1, 1)[:3]
    return Volume(np.broadcast_to(np.uint8(0), (1, *shape)), read_affine(header, str(path)))
