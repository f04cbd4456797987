"""Files and foreign images to and from `Volume`; the only room that opens images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunet.errors import LabelError, VolumeError
from medunet.io.atomic import (
    check_output,
    describe_write_error,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from medunet.io.memory import describe_source, from_memory, is_nibabel, is_simpleitk, to_lps_image
from medunet.io.nifti import (
    NIFTI_SUFFIXES,
    check_regular_file,
    is_nifti,
    strip_nifti_suffix,
    to_nibabel,
    to_working_dtype,
    write_nifti_image,
    write_nifti_labels,
)
from medunet.io.nifti import read_nifti as _read_nifti
from medunet.volume import Array, Volume, check_same_grid

__all__ = [
    "NIFTI_SUFFIXES",
    "check_output",
    "describe_source",
    "describe_write_error",
    "from_memory",
    "is_nibabel",
    "is_nifti",
    "is_simpleitk",
    "list_volumes",
    "read_channels",
    "read_label_map",
    "read_volume",
    "strip_nifti_suffix",
    "to_lps_image",
    "to_nibabel",
    "write_bytes_atomic",
    "write_json_atomic",
    "write_nifti_image",
    "write_nifti_labels",
    "write_text_atomic",
]

_LABEL_TOLERANCE = 1e-3
_NUM_LABELS = 2**24
"""Float32 counts without gaps up to here; larger values are no labels but a wrong file."""


def read_volume(path: str | Path) -> Volume:
    """Read a volume file.

    Raises:
        VolumeError: If the file is missing, of another kind, damaged, or without usable geometry or finite voxels.
    """
    path = Path(path)
    check_regular_file(path)
    if not is_nifti(path):
        suffixes = ", ".join(NIFTI_SUFFIXES)
        msg = f"{path} is no volume that medunet reads; expected a name ending in {suffixes}. Convert it first."
        raise VolumeError(msg)
    return _read_nifti(path)


def read_channels(paths: list[Path]) -> Volume:
    """Read one file per channel, or one file with all channels, into one volume.

    Raises:
        VolumeError: As `read_volume`.
        GeometryError: If two channels lie on different grids.
    """
    volumes = [read_volume(path) for path in paths]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        check_same_grid(volumes[0], volume, str(paths[0]), str(path))
    if len(volumes) == 1:
        return volumes[0]
    array = np.concatenate([volume.array for volume in volumes])
    return volumes[0].with_array(to_working_dtype(array))  # int32 beside float32 would become float64


def read_label_map(path: str | Path) -> Volume:
    """Read a label map ``(1, I, J, K)``; float files that hold whole numbers are taken.

    Raises:
        VolumeError: As `read_volume`.
        LabelError: If it has several channels, or values that are no whole numbers from 0 to 2**24 - 1.
    """
    volume = read_volume(path)
    if volume.num_channels != 1:
        msg = f"{path} has {volume.num_channels} channels; a label map has 1. Choose the channel, or merge them."
        raise LabelError(msg)
    labels = volume.array
    if labels.dtype.kind == "f":
        # A slope in the header can turn 1 into 1.0000001.
        is_whole = np.abs(labels - np.rint(labels)) <= _LABEL_TOLERANCE
        _refuse_labels(labels[~is_whole], f"{path} holds labels that are no whole numbers", "is it an image?")
        labels = np.rint(labels)
    out_of_range = (labels < 0) | (labels >= _NUM_LABELS)
    _refuse_labels(
        labels[out_of_range], f"{path} holds labels outside 0 to {_NUM_LABELS - 1}", "renumber them, or is it an image?"
    )
    return volume.with_array(labels.astype(np.int32) if labels.dtype.kind == "f" else labels)


def _refuse_labels(bad: Array, problem: str, remedy: str) -> None:
    if bad.size:
        values = np.unique(bad)
        shown = ", ".join(f"{value:.6g}" for value in values[:5].tolist()) + (", ..." if len(values) > 5 else "")
        msg = f"{problem} ({shown} in {bad.size} voxels); {remedy}"
        raise LabelError(msg)


def list_volumes(folder: Path) -> list[Path]:
    """The volume files of a folder, sorted by name; hidden files and the voxel half of .hdr/.img pairs are left out.

    Raises:
        VolumeError: If the folder cannot be listed.
    """
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        msg = f"{folder} cannot be listed: {error.strerror}; expected a folder of volumes. Check the path."
        raise VolumeError(msg) from error
    return sorted(
        path for path in paths if is_nifti(path) and not path.name.startswith(".") and path.suffix.lower() != ".img"
    )
