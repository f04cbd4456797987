"""Whether probabilities mean what they say: expected calibration error and Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError
from medunet.volume import Array

_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """How probabilities and truth go together.

    Attributes:
        ece: Expected calibration error, 0..1: the mean distance, over voxels, between confidence and accuracy of the bin
            that a voxel falls into (Guo et al. 2017, https://proceedings.mlr.press/v70/guo17a.html).
        brier: Mean squared distance between probabilities and truth, summed over classes: 0 is best, 2 worst (Brier
            1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
        bin_confidence: ``(B,)`` mean confidence per bin; NaN for empty bins.
        bin_accuracy: ``(B,)`` share of right voxels per bin; NaN for empty bins.
        bin_counts: ``(B,)`` voxels per bin.
    """

    ece: float
    brier: float
    bin_confidence: NDArray[np.float64]
    bin_accuracy: NDArray[np.float64]
    bin_counts: NDArray[np.int64]


def compute_calibration(
    probabilities: Array, reference: Array, *, num_bins: int = 15, mask: Array | None = None
) -> Calibration | None:
    """Calibration of classes that exclude each other.

    Most voxels of a scan are background that nobody doubts, which makes any model look calibrated: give a ``mask``, for
    example a box around the structures, and state it.

    Args:
        probabilities: ``(C, I, J, K)``, the background among the channels; they sum to 1. For a region of its own,
            stack ``1 - p`` and ``p``.
        reference: ``(I, J, K)`` index of the true channel.
        num_bins: Bins of equal width between 0 and 1.
        mask: ``(I, J, K)`` bool: voxels that count; None counts all.

    Returns:
        None where no voxel counts.

    Raises:
        GeometryError: If the shapes differ.
        ValueError: If probabilities leave 0..1 or do not sum to 1, the reference holds other indices, or there is no
            bin.

    Example:
        >>> probabilities = np.array([0.2, 0.6]).reshape(1, 1, 1, 2)
        >>> both = np.concatenate([1 - probabilities, probabilities])
        >>> round(compute_calibration(both, np.array([[[0, 1]]])).brier, 3)  # (2 * 0.04 + 2 * 0.16) / 2
        0.2
    """
    _check(probabilities, reference, num_bins)
    is_counted = np.ones(reference.shape, dtype=bool) if mask is None else mask.astype(bool)
    if not is_counted.any():
        return None
    counts = np.zeros(num_bins, dtype=np.int64)
    confidences, hits = np.zeros(num_bins), np.zeros(num_bins)
    squared = 0.0
    for plane, counted in enumerate(is_counted):  # nothing as large as the probabilities is made
        if not counted.any():
            continue
        of_plane = probabilities[:, plane][:, counted].astype(np.float64)  # (C, N)
        truth = reference[plane][counted]
        confidence, winner = of_plane.max(axis=0), of_plane.argmax(axis=0)
        bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)  # (low, high]
        counts += np.bincount(bins, minlength=num_bins)
        confidences += np.bincount(bins, confidence, minlength=num_bins)
        hits += np.bincount(bins, winner == truth, minlength=num_bins)
        of_truth = of_plane[truth, np.arange(len(truth))]
        squared += float((of_plane**2).sum() - 2 * of_truth.sum() + len(truth))
    total = int(counts.sum())
    with np.errstate(invalid="ignore"):
        bin_confidence, bin_accuracy = confidences / counts, hits / counts
    return Calibration(
        ece=float(np.abs(hits - confidences).sum() / total),
        brier=squared / total,
        bin_confidence=bin_confidence,
        bin_accuracy=bin_accuracy,
        bin_counts=counts,
    )


def _check(probabilities: Array, reference: Array, num_bins: int) -> None:
    if probabilities.ndim != 4 or probabilities.shape[1:] != reference.shape:
        msg = (
            f"The probabilities have the shape {probabilities.shape}, the reference {reference.shape}; expected "
            "(C, I, J, K) and (I, J, K) on one grid."
        )
        raise GeometryError(msg)
    if num_bins < 1:
        msg = f"There are {num_bins} bins; expected 1 or more."
        raise ValueError(msg)
    if not (probabilities.min() >= 0 and probabilities.max() <= 1 + _TOLERANCE):
        msg = "The probabilities leave 0 to 1; expected the output of a softmax, not logits."
        raise ValueError(msg)
    if np.abs(probabilities.sum(axis=0) - 1).max() > _TOLERANCE:
        msg = "The probabilities of a voxel do not sum to 1; expected all classes, the background included."
        raise ValueError(msg)
    if reference.min() < 0 or reference.max() >= len(probabilities):
        msg = (
            f"The reference holds other values than the channels 0 to {len(probabilities) - 1}; expected their indices."
        )
        raise ValueError(msg)
