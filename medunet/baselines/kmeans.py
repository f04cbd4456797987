"""k-means of intensities (Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489), begun by k-means++ (Arthur & Vassilvitskii 2007)."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.cluster.vq import vq

from medunet.baselines.intensities import smooth
from medunet.errors import InputError
from medunet.volume import Array, Volume

_MAX_CLASSES: Final = 32
_MAX_SAMPLES: Final = 100_000
_MAX_ROUNDS: Final = 100
_NUM_STARTS: Final = 5


def cluster_kmeans(image: Volume, num_classes: int, *, smooth_mm: float = 0.0, seed: int = 0) -> Volume:
    """Divide voxels into classes by their intensities in all channels, each in units of its deviation.

    The best of five starts counts; a class that no voxel is nearest to stays where it is. Large scans are learnt from
    100,000 voxels.

    Args:
        image: ``(C, I, J, K)``.
        num_classes: 2 to 32.
        smooth_mm: Standard deviation of a Gaussian before.
        seed: Of the starts and of the choice of voxels.

    Returns:
        ``(1, I, J, K)`` uint8: 0 for the darkest class, rising with the mean intensity.

    Raises:
        InputError: If there are fewer or more classes.
    """
    if not 2 <= num_classes <= _MAX_CLASSES:
        msg = f"There are {num_classes} classes asked for; expected 2 to {_MAX_CLASSES}."
        raise InputError(msg)
    channels = np.stack([smooth(channel.astype(np.float32), image.spacing, smooth_mm) for channel in image.array])
    deviations = channels.std(axis=(1, 2, 3), keepdims=True)
    channels /= np.where(deviations > 0, deviations, 1)
    voxels = channels.reshape(len(channels), -1).T  # (voxels, C)
    picked = voxels
    if len(voxels) > _MAX_SAMPLES:
        picked = voxels[np.random.default_rng(seed).choice(len(voxels), _MAX_SAMPLES, replace=False)]
    centres = _find_centres(picked.astype(np.float64), num_classes, seed)
    centres = centres[np.argsort(centres.mean(axis=1), kind="stable")]
    classes, _ = vq(voxels.astype(np.float64), centres)
    return image.with_array(classes.astype(np.uint8).reshape(1, *image.spatial_shape))


def _find_centres(voxels: Array, num_classes: int, seed: int) -> Array:
    """``(classes, C)``, the best of some starts."""
    rng = np.random.default_rng(seed)
    starts = [_descend(voxels, _draw_centres(voxels, num_classes, rng)) for _ in range(_NUM_STARTS)]
    return min(starts, key=lambda start: start[1])[0]


def _draw_centres(voxels: Array, num_classes: int, rng: np.random.Generator) -> Array:
    """k-means++: each centre is a voxel, the likelier the farther it lies from those before."""
    centres = [voxels[rng.integers(len(voxels))]]
    squares = np.full(len(voxels), np.inf)
    for _ in range(num_classes - 1):
        squares = np.minimum(squares, ((voxels - centres[-1]) ** 2).sum(axis=1))
        total = squares.sum()
        place = rng.choice(len(voxels), p=squares / total) if total > 0 else 0
        centres.append(voxels[place])
    return np.stack(centres)


def _descend(voxels: Array, centres: Array) -> tuple[Array, float]:
    """Centres that are the means of their voxels, and the mean square distance to them."""
    num_classes = len(centres)
    for _ in range(_MAX_ROUNDS):
        nearest, _ = vq(voxels, centres)
        sizes = np.bincount(nearest, minlength=num_classes)
        sums = np.stack([np.bincount(nearest, channel, minlength=num_classes) for channel in voxels.T], axis=1)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        if np.allclose(moved, centres, rtol=0, atol=1e-6):
            break
        centres = moved
    return centres, float((vq(voxels, centres)[1] ** 2).mean())
