"""Cases of which a patch shows a tenth, so that low resolutions and small networks that locate have something to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunet.io import write_nifti_image, write_nifti_labels
from medunet.planning import Effort
from medunet.volume import Volume

SHAPE = (36, 40, 26)
EFFORT = Effort(voxels=2 * 16**3, features=4)
"""A patch covers 10 % of a case, so that there is a low resolution."""


def write_dataset(folder: Path, *, num_cases: int) -> None:
    """A bright ball on either side of noise."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    affine = np.diag([-1.0, 1.0, 1.5, 1.0])  # the files run from right to left
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        image, labels = rng.normal(100, 10, SHAPE), np.zeros(SHAPE, np.uint8)
        for value, i, brightness in ((1, 26, 120), (3, 9, 70)):
            inside = np.linalg.norm(grid - (i, 20 + rng.integers(-4, 5), 13), axis=-1) < 7
            image[inside] += brightness
            labels[inside] = value
        write_nifti_image(Volume(image.astype(np.float32)[None], affine), folder / "images" / f"case_{number}.nii.gz")
        write_nifti_labels(Volume(labels[None], affine), folder / "labels" / f"case_{number}.nii.gz")
