"""`Frame`: one slice of a DICOM image, from a file of its own or out of a multi-frame file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medunet.io.dicom.files import DicomFile
from medunet.volume import Affine


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One slice.

    Attributes:
        file: Where it lies.
        header: The file's attributes without pixel data (a pydicom ``Dataset``); shared by the frames of one file.
        index: Number of the frame within the file, from 0.
        shape: Rows and columns.
        plane: ``(column, row, 0, 1)`` -> LPS mm, ``(4, 4)``: the first column of the matrix is the step from one
            column to the next, the second from one row to the next, the third the unit normal, the fourth the centre
            of the first pixel.
        slope: Stored value times ``slope`` plus ``intercept`` is the intensity.
        intercept: See ``slope``.
    """

    file: DicomFile
    header: Any
    index: int
    shape: tuple[int, int]
    plane: Affine
    slope: float = 1.0
    intercept: float = 0.0
