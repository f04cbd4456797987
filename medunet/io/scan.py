"""`Scan`: a volume with what is known about where it came from; and the choices that a reader may need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medunet.volume import Volume

if TYPE_CHECKING:
    from medunet.io.dicom.stack import DicomStack


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Choices for inputs that leave something open; without them such an input is refused with the choices named.

    Attributes:
        affine: Which affine of a NIfTI header counts where sform and qform disagree.
        volume_index: Which volume of a 4D file or of a DICOM series with several volumes per position, from 0.
        series: Which DICOM series: its UID, its number, or a part of its description.
        allow_gaps: Whether DICOM slices at uneven distances are resampled onto even ones.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``; DICOM series of another modality are passed over. ``"photo"``: what a
            picture says about the size of its pixels is left aside.
    """

    affine: Literal["sform", "qform"] | None = None
    volume_index: int | None = None
    series: str | None = None
    allow_gaps: bool = False
    modality: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """What a reader gives.

    Attributes:
        volume: Voxels and geometry.
        path: The file or folder; None for an image from memory.
        notes: What was changed, left out or found odd, one sentence each, without anything that names a patient. They
            were logged as warnings already.
        stack: The DICOM slices behind the volume, for writers of DICOM objects; None for other formats.
        other_paths: Files and folders of the channels behind the first, where each has its own.
    """

    volume: Volume
    path: Path | None = None
    notes: tuple[str, ...] = ()
    stack: DicomStack | None = None
    other_paths: tuple[Path, ...] = ()

    def list_files(self) -> list[Path]:
        """Every file and folder that the scan was read from, the slices of a DICOM folder included: none may be replaced."""
        if self.path is None:
            return []
        slices = {frame.file.path for frame in self.stack.frames} if self.stack is not None else set()
        return [self.path, *self.other_paths, *sorted(slices)]
