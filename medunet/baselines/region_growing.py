"""Region growing from seeds (Adams & Bischof 1994, https://doi.org/10.1109/34.295913), by scikit-image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medunet.baselines.intensities import check_voxel, smooth, take_channel
from medunet.errors import InputError
from medunet.volume import Volume


def grow_regions(
    image: Volume,
    seeds: Sequence[Sequence[int]],
    *,
    tolerance: float,
    channel: int | None = None,
    smooth_mm: float = 0.0,
) -> Volume:
    """All voxels that are connected with a seed through faces, and differ from it by at most a tolerance.

    Args:
        image: ``(C, I, J, K)``.
        seeds: Voxels ``(i, j, k)``; `find_voxel` finds them by millimetres.
        tolerance: In the unit of the image.
        channel: Which channel; None is the mean of all.
        smooth_mm: Standard deviation of a Gaussian before.

    Returns:
        ``(1, I, J, K)`` uint8: 1 in what grew from any seed.

    Raises:
        InputError: If there is no seed, one lies outside of the scan, or a number is out of its range.
    """
    from skimage.segmentation import flood

    if not seeds:
        msg = "There is no seed to grow from; expected one or more voxels within the structure."
        raise InputError(msg)
    if not 0 <= tolerance < np.inf:
        msg = f"The tolerance is {tolerance}; expected a number from 0 on, in the unit of the scan."
        raise InputError(msg)
    values = smooth(take_channel(image, channel), image.spacing, smooth_mm)
    mask = np.zeros(values.shape, bool)
    for seed in seeds:
        check_voxel(image, seed, "A seed")
        mask |= flood(values, tuple(seed), tolerance=tolerance, connectivity=1)
    return image.with_array(mask[None].astype(np.uint8))
