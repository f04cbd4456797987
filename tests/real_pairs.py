"""Two masks of one real organ: drawn by two people, or one that was moved by some voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunet.io import read_label_map
from medunet.volume import Volume

RATED = ("Parotid-Lt", "Optic-Nerve-Rt")
MOVED = "hippocampus, moved"
PAIRS = (*RATED, MOVED)


def read_pair(real_data: Path, name: str) -> tuple[Volume, Volume]:
    """Reference and mask on one grid, ``(1, I, J, K)``: 1 in organs of two raters, 1 and 2 in the hippocampus."""
    if name == MOVED:
        reference = read_label_map(sorted((real_data / "hippocampus-mr" / "labelsTr").glob("*.nii.gz"))[0])
        return reference, reference.with_array(np.roll(reference.array, (1, 2), (1, 3)))
    patient = [real_data / "two-raters-ct-labels" / rater / "0522c0017" for rater in ("oncologist", "radiographer")]
    first, second = (read_label_map(folder / "segmentations" / f"{name}.nrrd") for folder in patient)
    return first.with_array((first.array != 0).astype(np.uint8)), second.with_array(
        (second.array != 0).astype(np.uint8)
    )
