"""NIfTI-1 and NIfTI-2 files to `Volume`, with the checks that nibabel leaves out.

nibabel believes the size that a header claims (a 350-byte file may claim a terabyte). So the claim is compared with the
file and with the free memory before anything is allocated.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medunet.errors import VolumeError
from medunet.io.affine import check_affine
from medunet.io.claims import check_claim, check_memory
from medunet.io.nifti_affine import Form, read_affine, to_mm, warn_about_geometry
from medunet.io.nifti_file import explain_failures, get_pair_paths, is_pair, open_stream, read_pieces
from medunet.io.nifti_header import (
    HEADER_BYTES,
    get_scaling,
    get_stored_dtype,
    get_stored_shape,
    get_voxel_offset,
    parse_header,
)
from medunet.io.regular_file import check_regular_file
from medunet.io.voxels import (
    check_finite,
    check_real,
    choose_volume,
    copy_in_blocks,
    copy_to_row_order,
    count_channels,
    count_piece_planes,
    get_working_dtype,
    move_channels_first,
    to_working_dtype,
)
from medunet.volume import Affine, Array, Volume, build_grid

_NO_SCALING = (1.0, 0.0)


def read_nifti(path: Path, *, affine: Form | None = None, volume_index: int | None = None) -> Volume:
    """Read an image; a fourth axis becomes channels.

    Args:
        path: ``.nii``, ``.nii.gz``, or either half of an ``.hdr``/``.img`` pair.
        affine: Which affine counts. None takes the sform, else the qform, else guesses, and warns where the two differ
            or both are missing.
        volume_index: Which volume of a 4D file, from 0; only that one is kept in memory. None takes all.

    Returns:
        Volume with the integer type of the file, or float32 where the file is float or has a slope.

    Raises:
        VolumeError: If the file is missing, is no NIfTI file, is damaged, does not fit into memory, holds NaN, complex
            or colour voxels, lacks the affine or the volume that was asked for, or has an affine that is not finite,
            singular or sheared.
    """
    name = str(path)
    with explain_failures(name):
        header = _read_header(path)
        world = read_affine(header, name, affine)
        voxels = _read_voxels(header, path, volume_index)
        _scale(voxels, get_scaling(header, name))
        check_finite(voxels, name)
        volume = Volume(voxels, world)
        warn_about_geometry(header, name, affine)
        return volume


def from_nibabel(image: Any, name: str = "the nibabel image") -> Volume:
    """Take over a nibabel image in memory, by the rules of `read_nifti`.

    Raises:
        VolumeError: As `read_nifti`; ``name`` stands for the file.
    """
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        msg = f"{name} is of the kind Analyze 7.5, which does not say left from right; convert it to NIfTI first."
        raise VolumeError(msg)
    with explain_failures(name):
        check_real(np.dtype(image.dataobj.dtype), name)
        voxels, scaling = _get_stored_voxels(image.dataobj)
        return _build_volume(voxels, scaling, _get_affine_of_image(image, name), name)


def read_nifti_grid(path: Path, affine: Form | None = None) -> tuple[Any, Volume]:
    """The header of an image with every field as it stands in the file, and the image's grid without its voxels.

    Raises:
        VolumeError: As `read_nifti`, for what the header alone shows.
    """
    with explain_failures(str(path)):
        header = _read_header(path)
        i, j, k = (*get_stored_shape(header, str(path)), 1, 1)[:3]
        grid = build_grid((i, j, k), read_affine(header, str(path), affine))
        return header, grid


def _read_header(path: Path) -> Any:
    header_path, _ = get_pair_paths(path)
    check_regular_file(header_path)
    with open_stream(header_path) as stream:
        return parse_header(stream.read(HEADER_BYTES), str(header_path), is_pair=is_pair(path))


def _read_voxels(header: Any, path: Path, volume_index: int | None) -> Array:
    """The voxels ``(C, I, J, K)`` in row order and `_get_dtype`, not scaled yet."""
    header_path, voxel_path = get_pair_paths(path)
    name = str(header_path)
    shape, dtype = get_stored_shape(header, name), get_stored_dtype(header, name)
    offset = get_voxel_offset(header, name, is_pair=is_pair(path))
    num_channels = count_channels(shape, name)
    channels = range(num_channels) if volume_index is None else choose_volume(num_channels, volume_index, name)
    i, j, k = (*shape, 1)[:3]
    num_bytes = i * j * k * dtype.itemsize  # of one channel
    working = _get_dtype(header, dtype, name)
    check_regular_file(voxel_path)
    with open_stream(voxel_path) as stream:
        end = offset + num_channels * num_bytes
        what = f"{'x'.join(map(str, shape))} voxels"
        check_claim(voxel_path, end, what=what, is_compressed=isinstance(stream, gzip.GzipFile))
        # A voxel, and a mark for finite.
        num_needed = len(channels) * i * j * k * (working.itemsize + (working.kind == "f"))
        check_memory(voxel_path, num_needed, num_volumes=len(channels))
        array = np.empty((len(channels), i, j, k), working)  # takes no memory before it is filled
        step = count_piece_planes(i * j, dtype)
        places = [(channel, np.s_[first : min(first + step, k)]) for channel in array for first in range(0, k, step)]
        sizes = [i * j * (planes.stop - planes.start) * dtype.itemsize for _, planes in places]
        pieces = read_pieces(stream, sizes, offset + channels.start * num_bytes, end, voxel_path)
        for piece, (channel, planes) in zip(pieces, places, strict=True):
            stored = piece.view(dtype).reshape(1, i, j, -1, order="F")
            copy_in_blocks(stored, channel[None, :, :, planes])
    return array


def _get_dtype(header: Any, dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """What stored voxels become: float32 where they are scaled."""
    return get_working_dtype(dtype) if get_scaling(header, name) == _NO_SCALING else np.dtype(np.float32)


def _get_stored_voxels(data: Any) -> tuple[Array, tuple[float, float]]:
    """Voxels and scaling of nibabel's ``dataobj``: an array in memory, or a proxy of a file."""
    if hasattr(data, "get_unscaled") and hasattr(data, "slope"):
        return data.get_unscaled(), (float(data.slope), float(data.inter))
    return np.asanyarray(data), _NO_SCALING


def _get_affine_of_image(image: Any, name: str) -> Affine:
    """The affine that the image carries, which its user may have changed, in the units of its header."""
    if not hasattr(image.header, "get_xyzt_units"):  # no NIfTI image: millimetres
        return check_affine(np.array(image.affine, dtype=np.float64), name)
    if image.affine is None:
        return read_affine(image.header, name)
    warn_about_geometry(image.header, name)
    return check_affine(to_mm(image.affine, image.header, name), name)


def _build_volume(voxels: Array, scaling: tuple[float, float], affine: Affine, name: str) -> Volume:
    stored = move_channels_first(voxels, name)  # (C, I, J, K)
    if scaling == _NO_SCALING:
        in_order = stored.flags.c_contiguous
        array = to_working_dtype(stored) if in_order else copy_to_row_order(stored)
    else:
        array = copy_to_row_order(stored, np.float32)
        _scale(array, scaling)
    check_finite(array, name)
    return Volume(array, affine)


def _scale(array: Array, scaling: tuple[float, float]) -> None:
    """In place and by hand, because nibabel would scale in float64 and double the memory."""
    if scaling != _NO_SCALING:
        array *= np.float32(scaling[0])
        array += np.float32(scaling[1])
