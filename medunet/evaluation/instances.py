"""Structures that occur many times (lesions, nuclei, vertebrae): which of them were found.

Instances of two label maps are matched by IoU. From the match come the panoptic quality (Kirillov et al. 2019,
https://doi.org/10.1109/CVPR.2019.00963), the average precision at thresholds of instances without confidences, TP / (TP +
FP + FN) (Caicedo et al. 2019, https://doi.org/10.1038/s41592-019-0612-7), and the lesion-wise sensitivity with the false
positives per scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError
from medunet.evaluation.overlap import count_value_pairs
from medunet.postprocessing.parts import find_parts
from medunet.volume import Array

AP_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, eq=False, kw_only=True)
class InstanceOverlaps:
    """How the instances of two sides overlap: only pairs that share a voxel are held, so that there may be many instances.

    Attributes:
        num_reference: Instances of the reference.
        num_prediction: Instances of the prediction.
        rows: ``(N,)``, of each pair the instance of the reference, from 0 in rising order of their values.
        columns: ``(N,)``, of each pair the instance of the prediction, likewise.
        pair_ious: ``(N,)``, IoU of each pair.
        pair_shared: ``(N,)``, voxels in both.
    """

    num_reference: int
    num_prediction: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    pair_ious: NDArray[np.float64]
    pair_shared: NDArray[np.int64]

    @property
    def ious(self) -> NDArray[np.float64]:
        """``(R, P)``, 0 where nothing is shared."""
        ious = np.zeros((self.num_reference, self.num_prediction))
        ious[self.rows, self.columns] = self.pair_ious
        return ious


@dataclass(frozen=True, kw_only=True)
class InstanceScore:
    """What was found at one threshold of the IoU.

    Attributes:
        threshold: Pairs with a larger or equal IoU match, one to one.
        tp: Pairs.
        fp: Instances of the prediction without a partner.
        fn: Instances of the reference without a partner.
        average_precision: TP / (TP + FP + FN); None where neither side has an instance.
        recognition_quality: TP / (TP + FP / 2 + FN / 2), the F1; None likewise.
        segmentation_quality: Mean IoU of the pairs; 0 without a pair, None where neither side has an instance.
        panoptic_quality: The product of the two.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    average_precision: float | None
    recognition_quality: float | None
    segmentation_quality: float | None
    panoptic_quality: float | None


@dataclass(frozen=True, kw_only=True)
class LesionScore:
    """Which lesions of scans were touched.

    Attributes:
        num_lesions: Of the references.
        num_found: Of them, those of which the masks have enough.
        num_false_positives: Parts of the masks that touch no lesion.
        num_scans: Scans that were looked at, those without a lesion too.
        sensitivity: Found / lesions; None without a lesion.
        false_positives_per_scan: None without a scan.
    """

    num_lesions: int
    num_found: int
    num_false_positives: int
    num_scans: int
    sensitivity: float | None
    false_positives_per_scan: float | None


def find_instances(mask: Array) -> Array:
    """Number the connected parts of a mask ``(I, J, K)``, from 1; voxels that touch by a corner belong together."""
    parts, _ = find_parts(np.ascontiguousarray(mask, dtype=np.uint8))
    return parts


def compute_instance_overlaps(reference: Array, prediction: Array) -> InstanceOverlaps:
    """Overlaps of all instances of two label maps.

    Args:
        reference: ``(I, J, K)`` whole numbers; every value but 0 is an instance.
        prediction: The same, with values of its own.

    Raises:
        GeometryError: If the shapes differ.

    Example:
        >>> reference, prediction = np.array([[[1, 1, 0, 2]]]), np.array([[[0, 7, 7, 9]]])
        >>> compute_instance_overlaps(reference, prediction).ious.round(3).tolist()
        [[0.333, 0.0], [0.0, 1.0]]
    """
    if reference.shape != prediction.shape:
        msg = f"The reference has the shape {reference.shape}, the prediction {prediction.shape}; expected the same."
        raise GeometryError(msg)
    pairs = count_value_pairs(reference, prediction)
    row_of = {value: n for n, value in enumerate(sorted({value for value, _ in pairs} - {0}))}
    column_of = {value: n for n, value in enumerate(sorted({value for _, value in pairs} - {0}))}
    reference_sizes, prediction_sizes = np.zeros(len(row_of)), np.zeros(len(column_of))
    for (expected, found), num_voxels in pairs.items():
        if expected:
            reference_sizes[row_of[expected]] += num_voxels
        if found:
            prediction_sizes[column_of[found]] += num_voxels
    shared = [
        (row_of[expected], column_of[found], num_voxels)
        for (expected, found), num_voxels in pairs.items()
        if expected and found
    ]
    rows, columns, num_shared = np.array(shared, dtype=np.int64).reshape(-1, 3).T
    return InstanceOverlaps(
        num_reference=len(row_of),
        num_prediction=len(column_of),
        rows=rows,
        columns=columns,
        pair_ious=num_shared / (reference_sizes[rows] + prediction_sizes[columns] - num_shared),
        pair_shared=num_shared,
    )


def score_instances(overlaps: InstanceOverlaps, threshold: float = 0.5) -> InstanceScore:
    """Match instances one to one, as many as the threshold allows, of equally many those with the largest IoU.

    Args:
        overlaps: From `compute_instance_overlaps`.
        threshold: Of the IoU, above 0 and up to 1. From 0.5 on hardly any instance has a choice.

    Raises:
        ValueError: If the threshold is not in this range.

    Example:
        >>> overlaps = compute_instance_overlaps(np.array([[[1, 1, 0, 2]]]), np.array([[[0, 7, 7, 9]]]))
        >>> score_instances(overlaps).panoptic_quality
        0.5
    """
    if not 0 < threshold <= 1:
        msg = f"The threshold of the IoU is {threshold}; expected a number above 0 and up to 1."
        raise ValueError(msg)
    matched = _match(overlaps, threshold)
    tp = len(matched)
    fp, fn = overlaps.num_prediction - tp, overlaps.num_reference - tp
    is_anything = bool(tp + fp + fn)
    recognition = tp / (tp + fp / 2 + fn / 2) if is_anything else None
    segmentation = (float(matched.mean()) if tp else 0.0) if is_anything else None
    return InstanceScore(
        threshold=threshold,
        tp=tp,
        fp=fp,
        fn=fn,
        average_precision=tp / (tp + fp + fn) if is_anything else None,
        recognition_quality=recognition,
        segmentation_quality=segmentation,
        panoptic_quality=None if recognition is None or segmentation is None else recognition * segmentation,
    )


def _match(overlaps: InstanceOverlaps, threshold: float) -> NDArray[np.float64]:
    """The IoU of the matched pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    is_candidate = overlaps.pair_ious >= threshold
    rows, columns, ious = (values[is_candidate] for values in (overlaps.rows, overlaps.columns, overlaps.pair_ious))
    # Instances that have a choice, with all that compete for them: each group on its own, as it does not touch the others.
    num_nodes = overlaps.num_reference + overlaps.num_prediction
    graph = coo_array((np.ones(len(rows)), (rows, columns + overlaps.num_reference)), shape=(num_nodes, num_nodes))
    _, group_of_node = connected_components(graph, directed=False)
    groups = group_of_node[rows]
    has_choice = np.bincount(groups, minlength=num_nodes + 1)[groups] > 1
    matched = [ious[~has_choice]]
    for group in np.unique(groups[has_choice]):
        inside = groups == group
        matched.append(_assign(rows[inside], columns[inside], ious[inside]))
    return np.concatenate(matched)


def _assign(rows: NDArray[np.int64], columns: NDArray[np.int64], ious: NDArray[np.float64]) -> NDArray[np.float64]:
    """As many pairs as possible, of equally many those with the largest IoU."""
    from scipy.optimize import linear_sum_assignment

    _, row_places = np.unique(rows, return_inverse=True)
    _, column_places = np.unique(columns, return_inverse=True)
    table = np.zeros((row_places.max() + 1, column_places.max() + 1))
    table[row_places, column_places] = ious
    # All IoU together are worth less than one pair, so the number of pairs comes first.
    worth = np.where(table > 0, 1 + table / (1 + sum(table.shape)), 0.0)
    matched: NDArray[np.float64] = table[linear_sum_assignment(worth, maximize=True)]
    return matched[matched > 0]


def compute_average_precision(overlaps: InstanceOverlaps, thresholds: Sequence[float] = AP_THRESHOLDS) -> float | None:
    """Mean of the average precision at several thresholds; None where neither side has an instance."""
    values = [score_instances(overlaps, threshold).average_precision for threshold in thresholds]
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def score_lesions(scans: Iterable[InstanceOverlaps], min_voxels: int = 1) -> LesionScore:
    """Lesion-wise sensitivity and false positives per scan.

    A lesion is found when one part of the mask shares at least ``min_voxels`` voxels with it; several parts may find one
    lesion, and one part several. A part that shares this many voxels with no lesion is a false positive.

    Args:
        scans: The overlaps of every scan, those of scans without a lesion too.
        min_voxels: How much must be shared.

    Raises:
        ValueError: If ``min_voxels`` is below 1.
    """
    if min_voxels < 1:
        msg = f"min_voxels is {min_voxels}; expected 1 or more."
        raise ValueError(msg)
    num_lesions = num_found = num_false = num_scans = 0
    for overlaps in scans:
        touches = overlaps.pair_shared >= min_voxels
        num_scans += 1
        num_lesions += overlaps.num_reference
        num_found += len(np.unique(overlaps.rows[touches]))
        num_false += overlaps.num_prediction - len(np.unique(overlaps.columns[touches]))
    return LesionScore(
        num_lesions=num_lesions,
        num_found=num_found,
        num_false_positives=num_false,
        num_scans=num_scans,
        sensitivity=num_found / num_lesions if num_lesions else None,
        false_positives_per_scan=num_false / num_scans if num_scans else None,
    )
