"""Foreground intensities of a dataset, in memory that does not grow with it.

nnU-Net draws the same number of foreground voxels from every case, 100 million in all, and describes the sample. Here
every case leaves its moments and a few thousand quantiles, which give what such a sample gives on average: no case is
described by chance, and 10,000 cases need no more memory than 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from medunet.volume import Array

_POINTS_PER_CASE, _POINTS_IN_ALL = 10_000, 10_000_000
_MAX_SORTED = 1_000_000


class ChannelStatistics(BaseModel):
    """Foreground intensities of one channel, in the unit of the files; every case that has foreground counts the same.

    Ignored voxels are no foreground here; nnU-Net counts them in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


class ForegroundSketch(BaseModel):
    """One channel of one case: moments of its foreground and evenly spaced quantiles from minimum to maximum."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    mean: float
    variance: float
    quantiles: Array  # (N,) float32, rising


def choose_num_points(num_cases: int) -> int:
    """Quantiles per case, so that those of all cases together stay few."""
    return max(2, min(_POINTS_PER_CASE, _POINTS_IN_ALL // max(1, num_cases)))


def sketch_foreground(values: Array, num_points: int) -> ForegroundSketch:
    """Describe the foreground of one channel.

    Args:
        values: ``(N,)`` intensities, at least one.
        num_points: Quantiles to keep. They come from a random million of the voxels where there are more.
    """
    sample = values
    if values.size > _MAX_SORTED:
        sample = values[np.random.default_rng(1234).integers(values.size, size=_MAX_SORTED)]
    ranks = np.linspace(0, sample.size - 1, num_points)
    quantiles = np.interp(ranks, np.arange(sample.size), np.sort(sample)).astype(np.float32)
    quantiles[0], quantiles[-1] = values.min(), values.max()
    return ForegroundSketch(
        mean=float(values.mean(dtype=np.float64)),
        variance=float(values.var(dtype=np.float64)),
        quantiles=quantiles,
    )


def combine_sketches(sketches: Sequence[ForegroundSketch]) -> ChannelStatistics:
    """Statistics over cases that count the same, however much foreground each has; at least one case."""
    means = np.array([sketch.mean for sketch in sketches])
    variances = np.array([sketch.variance for sketch in sketches])
    mean = float(means.mean())
    points = np.concatenate([sketch.quantiles for sketch in sketches])
    low, median, high = np.percentile(points, [0.5, 50, 99.5]).tolist()
    return ChannelStatistics(
        mean=mean,
        median=median,
        std=math.sqrt(float((variances + (means - mean) ** 2).mean())),
        minimum=float(points.min()),
        maximum=float(points.max()),
        percentile_00_5=low,
        percentile_99_5=high,
    )
