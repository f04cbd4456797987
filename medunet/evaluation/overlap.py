"""Overlap of two masks: the four counts, and Dice read from them.

Dice is ``2 TP / (2 TP + FP + FN)`` (Dice 1945, https://doi.org/10.2307/1932409).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError
from medunet.volume import Array

PairCounts = Mapping[tuple[int, int], int]
"""How many voxels hold each pair ``(reference value, prediction value)``."""


@dataclass(frozen=True, kw_only=True)
class OverlapCounts:
    """Voxels of one structure.

    Attributes:
        tp: In the reference and in the prediction.
        fp: In the prediction only.
        fn: In the reference only.
    """

    tp: int
    fp: int
    fn: int

    @property
    def num_reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def num_prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp


def compute_overlap(reference: Array, prediction: Array) -> OverlapCounts:
    """Count the voxels of two boolean masks of one shape.

    Raises:
        GeometryError: If the shapes differ.

    Example:
        >>> compute_overlap(np.array([True, True, False]), np.array([False, True, True]))
        OverlapCounts(tp=1, fp=1, fn=1)
    """
    if reference.shape != prediction.shape:
        msg = f"The reference has the shape {reference.shape}, the prediction {prediction.shape}; expected the same."
        raise GeometryError(msg)
    reference, prediction = reference.astype(bool, copy=False), prediction.astype(bool, copy=False)
    tp = int(np.count_nonzero(reference & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return OverlapCounts(tp=tp, fp=fp, fn=fn)


def compute_dice(counts: OverlapCounts) -> float | None:
    """Dice of one structure.

    Returns:
        A value in 0..1; 0.0 when only one side is empty (the structure was missed or invented); None when both sides
        are empty, because there is nothing to agree on.

    Example:
        >>> compute_dice(OverlapCounts(tp=1, fp=1, fn=1))
        0.5
    """
    num_voxels = counts.num_reference + counts.num_prediction
    return 2 * counts.tp / num_voxels if num_voxels else None


def count_value_pairs(reference: Array, prediction: Array) -> PairCounts:
    """Count the pairs of values of two integer label maps ``(I, J, K)`` in one pass.

    This is the confusion matrix without its empty cells. It goes plane by plane, so that nothing as large as the label
    maps is allocated, and it looks only at voxels where either side is not 0.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    for reference_plane, prediction_plane in zip(reference, prediction, strict=True):
        occupied = (reference_plane != 0) | (prediction_plane != 0)
        if not occupied.any():
            continue
        rows, row = np.unique(reference_plane[occupied], return_inverse=True)
        columns, column = np.unique(prediction_plane[occupied], return_inverse=True)
        cells, counts = _count(row * len(columns) + column, len(rows) * len(columns))
        for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
            pairs[int(rows[cell // len(columns)]), int(columns[cell % len(columns)])] += count
    if num_empty := reference.size - pairs.total():
        pairs[0, 0] = num_empty
    return dict(pairs)


def _count(cells: NDArray[np.int64], num_cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which cells of a table occur, and how often; of many instances the table would be far larger than the plane."""
    if num_cells > 4 * len(cells):
        return np.unique(cells, return_counts=True)
    counts = np.bincount(cells, minlength=num_cells)
    occupied = np.flatnonzero(counts)
    return occupied, counts[occupied]


def read_overlap(pairs: PairCounts, values: Collection[int], ignore_value: int | None = None) -> OverlapCounts:
    """Overlap of the structure that several values form together.

    Args:
        pairs: From `count_value_pairs`.
        values: The values of the label or region.
        ignore_value: Voxels with this value in the reference leave both sides.
    """
    tp = fp = fn = 0
    for (reference_value, prediction_value), num_voxels in pairs.items():
        if ignore_value is not None and reference_value == ignore_value:
            continue
        in_reference, in_prediction = reference_value in values, prediction_value in values
        tp += num_voxels * (in_reference and in_prediction)
        fp += num_voxels * (in_prediction and not in_reference)
        fn += num_voxels * (in_reference and not in_prediction)
    return OverlapCounts(tp=tp, fp=fp, fn=fn)
