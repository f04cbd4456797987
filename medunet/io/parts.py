"""The files that a volume is made of: header and voxels may lie in files of their own."""

from __future__ import annotations

from pathlib import Path

from medunet.io.formats import METAIMAGE_SUFFIXES, NRRD_SUFFIXES, has_suffix
from medunet.io.nifti_file import get_pair_paths, is_nifti


def list_parts(path: Path) -> list[Path]:
    """The file itself, and the one with its voxels where ``path`` is a detached header (``.hdr``, ``.nhdr``, ``.mhd``).

    Raises:
        VolumeError: If a NRRD or MetaImage header is missing, damaged, or names a file that is not there.
    """
    if is_nifti(path):
        return list(dict.fromkeys(get_pair_paths(path)))
    if has_suffix(path, NRRD_SUFFIXES):
        from medunet.io.nrrd import locate_nrrd_voxels

        return list(dict.fromkeys((path, locate_nrrd_voxels(path))))
    if has_suffix(path, METAIMAGE_SUFFIXES):
        from medunet.io.metaimage import locate_metaimage_voxels

        return list(dict.fromkeys((path, locate_metaimage_voxels(path))))
    return [path]
