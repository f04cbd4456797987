"""`DicomStack`: the slices of one DICOM volume in the order of space, and the grid that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medunet.io.dicom.frames import Frame
from medunet.volume import Affine, Array, Shape3

if TYPE_CHECKING:
    from medunet.io.dicom.regrid import Regrid


@dataclass(frozen=True, eq=False, kw_only=True)
class DicomStack:
    """The slices of one volume.

    Attributes:
        frames: Rising along the normal of the slices (cross product of the directions of rows and columns).
        shape: ``(I, J, K)`` of the volume: columns, rows, slices.
        affine: Of the volume, RAS+ mm.
        regrid: How slices that are tilted or unevenly spaced become the rectangular grid; None where voxel
            ``(i, j, k)`` is column ``i``, row ``j`` of ``frames[k]``.
        notes: What was found odd or changed, one sentence each.
    """

    frames: tuple[Frame, ...]
    shape: Shape3
    affine: Affine
    regrid: Regrid | None = None
    notes: tuple[str, ...] = ()

    def labels_to_frames(self, labels: Array) -> Array:
        """Labels of the volume on the original slices.

        Args:
            labels: ``(I, J, K)`` integers or bool.

        Returns:
            ``(num_frames, rows, columns)``, in the order of ``frames``.
        """
        if self.regrid is not None:
            return self.regrid.labels_to_frames(labels)
        return np.ascontiguousarray(labels.transpose(2, 1, 0))

    def labels_from_frames(self, labels: Array) -> Array:
        """Labels of the original slices ``(num_frames, rows, columns)`` on the grid of the volume ``(I, J, K)``."""
        if self.regrid is not None:
            return self.regrid.labels_from_frames(labels)
        return np.ascontiguousarray(labels.transpose(2, 1, 0))

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID; empty where the files have none."""
        return str(self.frames[0].header.get("SeriesInstanceUID", ""))

    @property
    def frame_of_reference_uid(self) -> str:
        """FrameOfReferenceUID; empty where the files have none."""
        return str(self.frames[0].header.get("FrameOfReferenceUID", ""))
