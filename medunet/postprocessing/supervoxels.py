"""Supervoxels: small pieces of alike voxels, within which a mask is made to agree.

SLIC (Achanta 2012, https://doi.org/10.1109/TPAMI.2012.120) by scikit-image, in 2D and 3D. Its grid of centres is even in
voxels and its search window a cube of them, so long voxels are first cut into pieces that are nearly cubes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medunet.tasks import check_positive
from medunet.volume import Array, Spacing


@dataclass(frozen=True, kw_only=True)
class Supervoxels:
    """How large supervoxels are and how much they follow the image.

    Attributes:
        mm: Edge of a supervoxel; what is thinner than about that is lost in a vote.
        compactness: Standard deviations of the image that count as much as ``mm``: large ones give cubes.
    """

    name: ClassVar[str] = "slic"
    mm: float = 3.0
    compactness: float = 0.5

    def __post_init__(self) -> None:
        for key in ("mm", "compactness"):
            check_positive(self.name, key, getattr(self, key))


def compute_supervoxels(image: Array, spacing: Spacing, supervoxels: Supervoxels) -> Array:
    """Divide an image.

    Args:
        image: ``(N, I, J, K)``; a picture has one ``K``.
        spacing: In mm.
        supervoxels: Of which size.

    Returns:
        ``(I, J, K)`` the number of its supervoxel for every voxel, from 0. An image without any difference is cut into
        cubes.
    """
    from skimage.segmentation import slic
    from skimage.util import regular_grid

    deviations = image.std(axis=(1, 2, 3), keepdims=True)
    channels = np.divide(image, deviations, out=np.zeros(image.shape, np.float32), where=deviations > 0)
    axes = [axis for axis in range(3) if image.shape[1 + axis] > 1]
    finest = min((spacing[axis] for axis in axes), default=1.0)
    pieces = [max(round(spacing[axis] / finest), 1) for axis in axes]
    channels = channels.reshape(len(channels), *(image.shape[1 + axis] for axis in axes))
    for place, count in enumerate(pieces):
        channels = np.repeat(channels, count, axis=1 + place)
    shape = channels.shape[1:]
    lengths = [spacing[axis] / count for axis, count in zip(axes, pieces, strict=True)]
    extent = math.prod(n * mm for n, mm in zip(shape, lengths, strict=True))
    num_segments = max(round(extent / supervoxels.mm ** len(axes)), 1)
    if num_segments == 1 or len(axes) < 2:
        return np.zeros(image.shape[1:], np.int64)
    # scikit-image brings the image to 0 to 1 and divides mm by the step of its grid in voxels.
    grid = regular_grid((1,) * (3 - len(shape)) + shape, num_segments)
    step = max(part.step or 1 for part in grid)
    value_range = float(channels.max() - channels.min()) or 1.0
    found = slic(
        np.moveaxis(channels, 0, -1),
        n_segments=num_segments,
        compactness=supervoxels.compactness * step / (supervoxels.mm * value_range),
        spacing=lengths,
        convert2lab=False,
        channel_axis=-1,
        start_label=0,
    )
    middles = tuple(slice(count // 2, None, count) for count in pieces)
    return np.asarray(found[middles], np.int64).reshape(image.shape[1:])


def vote_in_supervoxels(codes: Array, segments: Array) -> Array:
    """Every voxel gets the value that most voxels of its supervoxel have; of several such the lowest.

    Args:
        codes: ``(I, J, K)`` small whole numbers from 0.
        segments: ``(I, J, K)`` of `compute_supervoxels`.

    Example:
        >>> vote_in_supervoxels(np.array([[[1, 1, 0, 0, 2]]]), np.array([[[0, 0, 0, 1, 1]]])).tolist()
        [[[1, 1, 1, 0, 0]]]
    """
    num_codes = int(codes.max()) + 1
    keys = segments.ravel().astype(np.int64) * num_codes + codes.ravel()
    counts = np.bincount(keys, minlength=(int(segments.max()) + 1) * num_codes).reshape(-1, num_codes)
    voted: Array = counts.argmax(axis=1)[segments].astype(codes.dtype)
    return voted


def average_in_supervoxels(probabilities: Array, segments: Array) -> Array:
    """The mean of every class over each supervoxel.

    Args:
        probabilities: ``(C, I, J, K)``.
        segments: ``(I, J, K)`` of `compute_supervoxels`.

    Returns:
        ``(C, I, J, K)`` float32.
    """
    sizes = np.bincount(segments.ravel())
    means = np.empty(probabilities.shape, np.float32)
    for mean, probability in zip(means, probabilities, strict=True):
        sums = np.bincount(segments.ravel(), weights=probability.ravel())
        mean[:] = (sums / np.maximum(sizes, 1))[segments]
    return means
