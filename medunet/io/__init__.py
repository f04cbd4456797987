"""Files and foreign images to and from `Volume`; the only room that opens images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunet.errors import LabelError, VolumeError
from medunet.io.atomic import check_output, describe_write_error, write_bytes_atomic, write_json_atomic, write_text_atomic
from medunet.io.memory import describe_source, from_memory, is_nibabel, is_simpleitk, to_lps_image
from medunet.io.nifti import (
    NIFTI_SUFFIXES,
    check_regular_file,
    is_nifti,
    strip_nifti_suffix,
    to_nibabel,
    write_nifti_image,
    write_nifti_labels,
)
from medunet.io.nifti import read_nifti as _read_nifti
from medunet.volume import Volume, check_same_grid

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


def read_volume(path: str | Path) -> Volume:
    """Read a volume file.

    Raises:
        VolumeError: If the file is missing, of another kind, damaged, or without usable geometry or finite voxels.
    """
    path = Path(path)
    check_regular_file(path)
    if not is_nifti(path):
        msg = f"{path} is no volume that medunet reads; expected a name ending in {', '.join(NIFTI_SUFFIXES)}."
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
    return volumes[0] if len(volumes) == 1 else volumes[0].with_array(np.concatenate([v.array for v in volumes]))


def read_label_map(path: str | Path) -> Volume:
    """Read a label map ``(1, I, J, K)``; float files that hold whole numbers are taken.

    Raises:
        VolumeError: As `read_volume`.
        LabelError: If it has several channels, or values that are no whole numbers.
    """
    volume = read_volume(path)
    if volume.num_channels != 1:
        msg = f"{path} has {volume.num_channels} channels; a label map has 1. Choose the channel, or merge them."
        raise LabelError(msg)
    if volume.array.dtype.kind == "f":
        rounded = np.rint(volume.array)
        if (rounded != volume.array).any():
            values = np.unique(volume.array[rounded != volume.array])
            shown = ", ".join(f"{value:g}" for value in values[:5].tolist())
            msg = f"{path} holds labels that are no whole numbers ({shown}{', ...' if len(values) > 5 else ''}); is it an image?"
            raise LabelError(msg)
        volume = volume.with_array(rounded.astype(np.int32))
    return volume


def list_volumes(folder: Path) -> list[Path]:
    """The volume files of a folder, sorted by name; hidden files and the voxel half of .hdr/.img pairs are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if is_nifti(path) and not path.name.startswith(".") and path.suffix.lower() != ".img"
    )
