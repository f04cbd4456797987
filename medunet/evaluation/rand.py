"""Foreground-restricted Rand scores of a partition into cells (Arganda-Carreras 2015, doi:10.3389/fnana.2015.00142).

How well membranes part cells says more about a segmentation of cells than the share of right pixels: one pixel too few in a
membrane merges two cells. With ``p(i, j)`` the share of the reference's foreground that lies in predicted segment ``i`` and
reference segment ``j``, and with their sums ``s(i)`` and ``t(j)``:

- ``V_split = sum p² / sum t²``: two pixels of one reference cell are also together in the prediction;
- ``V_merge = sum p² / sum s²``: two pixels that are together in the prediction are of one reference cell;
- ``V_rand = sum p² / (½ sum s² + ½ sum t²)``, which is the F-score of both, and 1 less the adapted Rand error of SNEMI3D.

Pixels outside the reference's cells do not count. Borders of the prediction are thinned before: its segments grow until they
meet, so that nobody wins or loses by thick membranes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunet.errors import GeometryError
from medunet.volume import Array


@dataclass(frozen=True, kw_only=True)
class RandScores:
    """Foreground-restricted Rand scores, 0 to 1, higher is better.

    Attributes:
        f_score: ``V_rand``.
        split: ``V_split``: falls where cells are cut into pieces.
        merge: ``V_merge``: falls where cells run into each other.
    """

    f_score: float
    split: float
    merge: float


def score_partition(reference: Array, prediction: Array) -> RandScores | None:
    """The scores of two masks of cells, whose connected parts are the segments.

    Args:
        reference: ``(I, J)`` or ``(I, J, K)``, true within cells.
        prediction: The same for the other side.

    Returns:
        None where the reference has no cell. Where the prediction has none, all pixels are one segment.

    Raises:
        GeometryError: If the shapes differ.

    Example:
        >>> two = np.array([[1, 1, 0, 1, 1]])
        >>> score_partition(two, np.array([[1, 1, 1, 1, 1]]))  # merged: half of all pairs are of one cell
        RandScores(f_score=0.6666666666666666, split=1.0, merge=0.5)
    """
    return compute_rand_scores(find_segments(reference), thin_borders(find_segments(prediction)))


def compute_rand_scores(reference: Array, prediction: Array) -> RandScores | None:
    """The scores of two partitions.

    Args:
        reference: Numbers of segments of any shape; 0 does not count.
        prediction: Numbers of segments; 0 is a segment like the others.

    Returns:
        None where the reference has no segment.

    Raises:
        GeometryError: If the shapes differ.
    """
    if reference.shape != prediction.shape:
        msg = f"The reference has the shape {reference.shape}, the prediction {prediction.shape}; expected the same."
        raise GeometryError(msg)
    inside = reference > 0
    if not inside.any():
        return None
    expected = np.unique(reference[inside], return_inverse=True)[1]
    found, inverse = np.unique(prediction[inside], return_inverse=True)
    pairs = _sum_squares(np.unique(expected.astype(np.int64) * len(found) + inverse, return_counts=True)[1])
    within_reference, within_prediction = (_sum_squares(np.bincount(numbers)) for numbers in (expected, inverse))
    return RandScores(
        f_score=pairs / (0.5 * within_prediction + 0.5 * within_reference),
        split=pairs / within_reference,
        merge=pairs / within_prediction,
    )


def find_segments(mask: Array) -> Array:
    """Numbers from 1 on for the connected parts of a mask, 0 outside.

    Pixels that only touch at a corner are not connected: a membrane of one pixel that runs diagonally parts two cells.
    """
    from scipy.ndimage import label

    segments: Array = label(np.asarray(mask) != 0)[0]
    return segments


def thin_borders(segments: Array) -> Array:
    """Give every pixel between segments to the nearest of them; without any segment all stay 0."""
    from scipy.ndimage import distance_transform_edt

    if not segments.any():
        return segments
    nearest = distance_transform_edt(segments == 0, return_distances=False, return_indices=True)
    grown: Array = segments[tuple(nearest)]
    return grown


def _sum_squares(counts: Array) -> float:
    return float((counts.astype(np.float64) ** 2).sum())
