"""What every voxel array that enters or leaves must fulfil, whatever its file format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from medunet.errors import LabelError, VolumeError
from medunet.volume import Array, Volume

LABEL_LIMIT = 2**24
"""Float32 counts without gaps up to here; larger values are no labels but a wrong file."""
_LABEL_TOLERANCE = 1e-3
_CACHE_LINE_BYTES, _LARGEST_PIECE_BYTES = 64, 2**26


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


def get_working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What voxels of a type become: integers as they are in native byte order, bool uint8, every float float32."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def to_working_dtype(voxels: Array) -> Array:
    """The voxels in `get_working_dtype`; copies only if it must."""
    with np.errstate(over="ignore"):  # becomes infinite, which `check_finite` reports
        return np.asarray(voxels, dtype=get_working_dtype(voxels.dtype))


def copy_to_row_order(voxels: Array, dtype: Any = None) -> Array:
    """Voxels ``(C, I, J, K)`` in C order, in ``dtype`` or else in `get_working_dtype`."""
    array = np.empty(voxels.shape, get_working_dtype(voxels.dtype) if dtype is None else dtype)
    copy_in_blocks(voxels, array)
    return array


def copy_in_blocks(voxels: Array, target: Array) -> None:
    """Copy ``(C, I, J, K)``, I fastest as files hold it, to where K is fastest.

    In blocks that stay in the cache, which is many times faster than at once.
    """
    with np.errstate(over="ignore"):  # becomes infinite, which `check_finite` reports
        for k in range(0, target.shape[3], 16):
            for j in range(0, target.shape[2], 16):
                for i in range(0, target.shape[1], 64):
                    block = np.s_[:, i : i + 64, j : j + 16, k : k + 16]
                    target[block] = voxels[block]


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


def choose_volume(num_volumes: int, volume_index: int, name: str) -> range:
    """The channels that ``--volume-index`` leaves: one.

    Raises:
        VolumeError: If there is no such volume.
    """
    if not 0 <= volume_index < num_volumes:
        msg = (
            f"{name} holds {num_volumes} volume(s); volume {volume_index} was asked for. Choose --volume-index from 0 "
            f"to {num_volumes - 1}."
        )
        raise VolumeError(msg)
    return range(volume_index, volume_index + 1)


def count_channels(shape: tuple[int, ...], name: str) -> int:
    """The number of channels of an array ``(I, J)``, ``(I, J, K)`` or ``(I, J, K, ..., C)`` with ones between.

    Raises:
        VolumeError: If there are fewer axes, or two beyond the third that are longer than 1.
    """
    if len(shape) < 2 or sum(n > 1 for n in shape[3:]) > 1:
        axes = "x".join(map(str, shape))
        msg = f"{name} has {len(shape)} axes ({axes}); expected 3, or 4 with channels last. Split it first."
        raise VolumeError(msg)
    return math.prod(shape[3:])


def move_channels_first(voxels: Array, name: str) -> Array:
    """``(I, J)``, ``(I, J, K)`` or ``(I, J, K, ..., C)`` with ones between, as ``(C, I, J, K)``.

    Raises:
        VolumeError: As `count_channels`.
    """
    num_channels = count_channels(voxels.shape, name)
    spatial_shape = (*voxels.shape, 1)[:3]
    voxels = voxels.reshape(*spatial_shape, num_channels, order="F")  # (I, J, K, C)
    return np.moveaxis(voxels, -1, 0)


def choose_label_dtype(label_map: Volume) -> np.dtype[Any]:
    """The smallest of uint8, int16 and int32 that holds the labels.

    Raises:
        LabelError: If there are several channels, or values that int32 does not hold.
    """
    if label_map.num_channels != 1 or label_map.array.dtype.kind not in "biu":
        msg = (
            f"A label map has 1 channel of whole numbers; got {label_map.num_channels} of dtype "
            f"{label_map.array.dtype}. Turn the scores into classes first."
        )
        raise LabelError(msg)
    lowest, highest = int(label_map.array.min()), int(label_map.array.max())
    for dtype in (np.uint8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= lowest and highest <= limits.max:
            return np.dtype(dtype)
    msg = f"A label map holds values from {lowest} to {highest}; expected them to fit 32 bits. Renumber the labels."
    raise LabelError(msg)


def to_label_array(label_map: Volume) -> Array:
    """The labels ``(I, J, K)``, copied into `choose_label_dtype`.

    Raises:
        LabelError: As `choose_label_dtype`.
    """
    labels: Array = label_map.array[0].astype(choose_label_dtype(label_map))
    return labels


def iterate_file_order(array: Array, dtype: np.dtype[Any]) -> Iterator[Array]:
    """Voxels as files store them, first axis fastest, in pieces of some planes: no copy of all is made.

    Args:
        array: ``(..., I, J, K)``.
        dtype: Of the pieces.

    Yields:
        ``(planes, J, I, ...)`` in C order, from the first plane along K to the last.
    """
    num_planes = count_piece_planes(array[..., 0].size, dtype)
    for k in range(0, array.shape[-1], num_planes):
        planes = array[..., k : k + num_planes]
        piece = np.empty(planes.shape[::-1], dtype)
        # In blocks that stay in the cache, which is four times as fast as at once.
        for j in range(0, array.shape[-2], 64):
            for i in range(0, array.shape[-3], 16):
                piece[:, j : j + 64, i : i + 16] = planes[..., i : i + 16, j : j + 64, :].T
        yield piece


def count_piece_planes(plane_size: int, dtype: np.dtype[Any]) -> int:
    """How many planes along K are handled at once: those of a line of the cache, unless they are huge."""
    return max(1, min(_CACHE_LINE_BYTES // dtype.itemsize, _LARGEST_PIECE_BYTES // (plane_size * dtype.itemsize)))


def to_label_map(volume: Volume, name: str) -> Volume:
    """A label map ``(1, I, J, K)`` of integers; float voxels that are whole numbers are taken.

    Raises:
        LabelError: If there are several channels, or values that are no whole numbers from 0 to 2**24 - 1.
    """
    if volume.num_channels != 1:
        msg = f"{name} has {volume.num_channels} channels; a label map has 1. Choose the channel, or merge them."
        raise LabelError(msg)
    labels = volume.array
    if labels.dtype.kind == "f":
        # A slope in the header can turn 1 into 1.0000001.
        is_whole = np.abs(labels - np.rint(labels)) <= _LABEL_TOLERANCE
        _refuse_labels(labels[~is_whole], f"{name} holds labels that are no whole numbers", "is it an image?")
        labels = np.rint(labels)
    out_of_range = (labels < 0) | (labels >= LABEL_LIMIT)
    _refuse_labels(
        labels[out_of_range], f"{name} holds labels outside 0 to {LABEL_LIMIT - 1}", "renumber them, or is it an image?"
    )
    return volume.with_array(labels.astype(np.int32) if labels.dtype.kind == "f" else labels)


def _refuse_labels(bad: Array, problem: str, remedy: str) -> None:
    if bad.size:
        values = np.unique(bad)
        shown = ", ".join(f"{value:.6g}" for value in values[:5].tolist()) + (", ..." if len(values) > 5 else "")
        msg = f"{problem} ({shown} in {bad.size} voxels); {remedy}"
        raise LabelError(msg)
