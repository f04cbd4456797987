"""Siemens mosaics: all slices of a volume tiled into one picture, with their geometry in a private header.

nibabel knows that header (https://nipy.org/nibabel/dicom/dicom_mosaic.html). A mosaic that cannot be taken apart is
refused: read as one large slice it would be a picture, not a volume.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import find_number, get_text, quiet_pydicom
from medunet.volume import Affine


def is_mosaic(header: Any) -> bool:
    """Whether ImageType says so."""
    return "MOSAIC" in get_text(header, "ImageType").upper().split("\\")


def locate_tiles(
    header: Any, plane: Affine, shape: tuple[int, int], file: DicomFile
) -> list[tuple[Affine, tuple[int, int]]]:
    """The slices of a mosaic.

    Args:
        header: Attributes of the file.
        plane: Of the whole picture, as the file gives it: ``(column, row, 0, 1)`` -> LPS mm.
        shape: Rows and columns of the picture.
        file: For messages.

    Returns:
        For every slice its plane, and the row and column of its first pixel within the picture.

    Raises:
        VolumeError: If the private header is missing or does not fit.
    """
    num_slices, normal = _read_csa(header, file)
    per_side = math.ceil(math.sqrt(num_slices))
    rows, columns = shape[0] // per_side, shape[1] // per_side
    step = find_number(header, "SpacingBetweenSlices", file) or find_number(header, "SliceThickness", file)
    if shape[0] % per_side or shape[1] % per_side or not step or step <= 0:
        msg = f"{file} is a mosaic of {num_slices} slices that does not divide {shape[0]}x{shape[1]} pixels, or lacks their distance."
        raise VolumeError(msg)
    # ImagePositionPatient is where the whole picture would begin if it were centred like the slice.
    origin = plane[:3, 3] + plane[:3, 0] * (shape[1] - columns) / 2 + plane[:3, 1] * (shape[0] - rows) / 2
    tiles = []
    for index in range(num_slices):
        tile = plane.copy()
        tile[:3, 3] = origin + normal * step * index
        tiles.append((tile, (index // per_side * rows, index % per_side * columns)))
    return tiles


def _read_csa(header: Any, file: DicomFile) -> tuple[int, Any]:
    """Number of slices and the direction in which they follow each other, LPS."""
    try:
        with quiet_pydicom():  # nibabel calls its DICOM readers experimental at every import
            from nibabel.nicom import csareader

            csa = csareader.get_csa_header(header)
            num_slices = csareader.get_n_mosaic(csa)
            normal = np.asarray(csareader.get_slice_normal(csa), dtype=np.float64)
    except Exception:  # a private format, damaged in private ways
        msg = f"{file} is a mosaic with a damaged private header; expected Siemens' CSA header. Export it as single slices."
        raise VolumeError(msg) from None
    if not num_slices or normal.shape != (3,) or abs(float(np.linalg.norm(normal)) - 1) > 1e-3:
        msg = f"{file} is a mosaic whose private header is gone, so its slices cannot be placed. Export it as single slices."
        raise VolumeError(msg)
    return int(num_slices), normal
