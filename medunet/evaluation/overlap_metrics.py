"""What the four counts of a structure say: IoU, precision, recall, F-beta, specificity, accuracy.

One rule for empty sides: where only one side has the structure, the worst value stands (0), though the formula may be
0 / 0; where neither has it, None, because there is nothing to score (Maier-Hein et al. 2024,
https://doi.org/10.1038/s41592-023-02151-z).
"""

from __future__ import annotations

from medunet.evaluation.overlap import OverlapCounts


def compute_iou(counts: OverlapCounts) -> float | None:
    """Intersection over union, the Jaccard index; 0 when one side is empty, None when both are.

    Example:
        >>> compute_iou(OverlapCounts(tp=1, fp=1, fn=1)) == 1 / 3
        True
    """
    return _divide(counts.tp, counts.tp + counts.fp + counts.fn, counts)


def compute_precision(counts: OverlapCounts) -> float | None:
    """Share of the predicted voxels that are right; 0 when nothing was predicted, None when both sides are empty."""
    return _divide(counts.tp, counts.num_prediction, counts)


def compute_recall(counts: OverlapCounts) -> float | None:
    """Share of the reference's voxels that were found (sensitivity); 0 for an invented structure, None for no structure."""
    return _divide(counts.tp, counts.num_reference, counts)


def compute_f_beta(counts: OverlapCounts, beta: float) -> float | None:
    """Weighted mean of precision and recall; recall counts ``beta`` times as much. With 1 it is the Dice.

    van Rijsbergen, Information Retrieval, 1979; 0 when one side is empty, None when both are.
    """
    weight = beta**2
    return _divide((1 + weight) * counts.tp, (1 + weight) * counts.tp + weight * counts.fn + counts.fp, counts)


def compute_specificity(counts: OverlapCounts, num_voxels: int) -> float | None:
    """Share of the voxels outside the reference that the prediction leaves out.

    It grows with the empty space around a structure, so it compares nothing but images of one field of view.

    Args:
        counts: Of the structure.
        num_voxels: Of the image, ignored ones left out.

    Returns:
        0 to 1; None when both sides are empty, or the reference fills the image.
    """
    num_outside = num_voxels - counts.num_reference
    return (num_outside - counts.fp) / num_outside if num_outside and _is_anywhere(counts) else None


def compute_accuracy(counts: OverlapCounts, num_voxels: int) -> float | None:
    """Share of the image's voxels on which both sides agree; None when both sides are empty."""
    return (num_voxels - counts.fp - counts.fn) / num_voxels if _is_anywhere(counts) else None


def _divide(numerator: float, denominator: float, counts: OverlapCounts) -> float | None:
    if not _is_anywhere(counts):
        return None
    return numerator / denominator if denominator else 0.0


def _is_anywhere(counts: OverlapCounts) -> bool:
    return bool(counts.num_reference or counts.num_prediction)
