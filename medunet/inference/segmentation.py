"""What comes out of inference: a label map on the scan's own grid, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medunet.io import (
    check_output,
    is_nibabel,
    is_nifti,
    is_simpleitk,
    to_lps_image,
    to_nibabel,
    write_nifti_labels,
)
from medunet.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The mask of one scan.

    Attributes:
        labels: ``(1, I, J, K)`` on the scan's grid, with the values of the task.
        label_values: Label or region name -> values in ``labels``.
        timings: Seconds per stage: ``read``, ``prepare``, ``network``, ``restore``.
        device: That computed.
        source: The scan's file; None when it came from memory.
        description: For the ``descrip`` of a NIfTI file.
    """

    labels: Volume
    label_values: dict[str, tuple[int, ...]]
    timings: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    source: Path | None = None
    description: str = "medunet"

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of every label in millilitres; 0 where nothing was found."""
        voxel_ml = self.labels.voxel_volume_mm3 / 1000
        found, counts = np.unique(self.labels.array, return_counts=True)
        num_voxels = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return {
            name: voxel_ml * sum(num_voxels.get(value, 0) for value in values)
            for name, values in self.label_values.items()
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the mask as NIfTI; a scan read from a NIfTI file lends it its header's geometry, bit for bit.

        Raises:
            OutputError: If the path is the scan itself, exists (unless ``overwrite``), or cannot be written.
        """
        path = Path(path)
        check_output(path, [self.source] if self.source else [], overwrite=overwrite)
        like = self.source if self.source and is_nifti(self.source) else None
        write_nifti_labels(self.labels, path, like=like, description=self.description)
        return path

    def to_nibabel(self) -> Any:
        """The mask as a nibabel image."""
        return to_nibabel(self.labels)

    def to_simpleitk(self) -> Any:
        """The mask as a SimpleITK image."""
        return to_lps_image(self.labels)

    def to_like(self, scan: object) -> Any:
        """The mask as the kind of object that the scan was: nibabel, SimpleITK, ``(array, affine)`` or `Volume`."""
        if is_nibabel(scan):
            return self.to_nibabel()
        if is_simpleitk(scan):
            return self.to_simpleitk()
        if isinstance(scan, tuple):
            return self.labels.array[0], self.labels.affine
        return self.labels
