"""Otsu's threshold (1979, https://doi.org/10.1109/TSMC.1979.4310076), by scikit-image."""

from __future__ import annotations

import numpy as np

from medunet.baselines.intensities import smooth, take_channel
from medunet.baselines.split_touching import split_touching
from medunet.errors import InputError
from medunet.volume import Volume


def segment_otsu(
    image: Volume,
    *,
    channel: int | None = None,
    smooth_mm: float = 0.0,
    is_dark: bool = False,
    split_mm: float | None = None,
) -> Volume:
    """Divide intensities into two classes whose variances within are smallest.

    Args:
        image: ``(C, I, J, K)``.
        channel: Which channel; None is the mean of all.
        smooth_mm: Standard deviation of a Gaussian before.
        is_dark: Whether the darker class is the structure.
        split_mm: Divide touching objects whose centres are farther apart than this (`split_touching`); None divides
            nothing.

    Returns:
        ``(1, I, J, K)``: 1 in the structure, or 1, 2, 3 for its objects.

    Raises:
        InputError: If all voxels are alike, or a number is out of its range.
    """
    from skimage.filters import threshold_otsu

    values = smooth(take_channel(image, channel), image.spacing, smooth_mm)
    if values.min() == values.max():
        msg = f"All voxels of the scan have the value {float(values.min()):g}; expected two kinds. Choose another scan or channel."
        raise InputError(msg)
    is_bright = values > threshold_otsu(values)
    mask = ~is_bright if is_dark else is_bright
    if split_mm is None:
        return image.with_array(mask[None].astype(np.uint8))
    return image.with_array(split_touching(mask, image.spacing, split_mm)[None])
