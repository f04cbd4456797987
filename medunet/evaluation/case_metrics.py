"""Every metric of one case: the counts of one pass, the surfaces of one transform per side, and readers on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medunet.evaluation.case import CaseCounts, Labels, LabelScore, count_case, score_counts
from medunet.evaluation.catalogue import MetricSettings
from medunet.evaluation.overlap import OverlapCounts, PairCounts
from medunet.evaluation.overlap_metrics import (
    compute_accuracy,
    compute_f_beta,
    compute_iou,
    compute_precision,
    compute_recall,
    compute_specificity,
)
from medunet.evaluation.structure import StructureMeasures, measure_structures
from medunet.evaluation.surface import compute_assd_mm, compute_hausdorff_mm, compute_nsd, compute_rmsd_mm
from medunet.volume import Volume

_DISTANCES = ("hd95_mm", "hd_mm", "assd_mm", "rmsd_mm", "centre_distance_mm")


@dataclass(frozen=True, kw_only=True)
class LabelMetrics(LabelScore):
    """Every number of one label of one case.

    A number is None where there is nothing to score, that is where both sides are empty. A missed or an invented
    structure has the worst value: 0 for what ends at 1, the diagonal of the image for distances.

    Attributes:
        tn: Voxels outside both, ignored ones left out.
        iou: Intersection over union.
        f_beta: F-beta.
        precision: Share of the prediction that is right.
        recall: Share of the reference that was found.
        specificity: Share of the rest that the prediction leaves out.
        accuracy: Share of the image on which both agree.
        nsd: Share of both surfaces within ``tolerance_mm`` of the other.
        hd95_mm: 95th percentile of the Hausdorff distance.
        hd_mm: Hausdorff distance.
        assd_mm: Average symmetric surface distance.
        rmsd_mm: Root of the mean squared surface distance.
        centre_distance_mm: Between the centres of mass.
        volume_error_ml: Prediction less reference.
        absolute_volume_error_ml: The same without its sign.
        tolerance_mm: Of the NSD.
        spacing_mm: The largest voxel edge, which says what a distance can mean.
    """

    tn: int
    iou: float | None
    f_beta: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    accuracy: float | None
    nsd: float | None
    hd95_mm: float | None
    hd_mm: float | None
    assd_mm: float | None
    rmsd_mm: float | None
    centre_distance_mm: float | None
    volume_error_ml: float | None
    absolute_volume_error_ml: float | None
    tolerance_mm: float
    spacing_mm: float


@dataclass(frozen=True, kw_only=True)
class CaseAgreement:
    """How many voxels of a case carry the same labels on both sides, background included.

    Attributes:
        case_id: The case.
        pixel_accuracy: Share of the voxels; None where all are ignored.
        mean_pixel_accuracy: Mean, over the classes of the reference, of the share that was found; None likewise.
    """

    case_id: str
    pixel_accuracy: float | None
    mean_pixel_accuracy: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseMeasures:
    """What the voxels of a case leave behind: small, and enough for every number.

    Attributes:
        counts: Voxels per pair of values.
        structures: Label -> its NSD and distances by their names, where both sides have it.
        diagonal_mm: Of the image, from corner to corner.
        spacing_mm: The largest voxel edge.
    """

    counts: CaseCounts
    structures: Mapping[str, Mapping[str, float]]
    diagonal_mm: float
    spacing_mm: float


def measure_case(
    reference: Volume,
    prediction: Volume,
    labels: Labels,
    *,
    case_id: str,
    ignore_value: int | None = None,
    settings: MetricSettings | None = None,
) -> list[LabelMetrics]:
    """Every metric of every label of one case; `score_case` gives the Dice alone, much faster.

    Args:
        reference: Label map ``(1, I, J, K)`` to compare with.
        prediction: Label map on the same grid.
        labels: Name -> values; a region has several, and regions may overlap.
        case_id: Goes into the scores and the messages.
        ignore_value: Voxels with this value in the reference leave both sides; where a structure borders on them, both
            sides end there.
        settings: Tolerances and the kind of surface.

    Returns:
        One per label, in the order of ``labels``.

    Raises:
        GeometryError: If the grids differ.
        LabelError: If a side is no label map, or holds a value that no label has.

    Example:
        >>> reference = make_volume(shape=(4, 5, 6), spacing=(1.0, 1.0, 3.0), dtype=np.uint8)
        >>> reference = reference.with_array(np.zeros((1, 4, 5, 6), np.uint8))
        >>> prediction = reference.with_array(reference.array.copy())
        >>> reference.array[0, 1, 1, 1] = prediction.array[0, 1, 1, 2] = 1
        >>> found = measure_case(reference, prediction, {"lesion": [1]}, case_id="p012")[0]
        >>> found.dice, found.hd_mm, found.centre_distance_mm
        (0.0, 3.0, 3.0)
    """
    settings = settings or MetricSettings()
    measures = take_measures(
        reference, prediction, labels, case_id=case_id, ignore_value=ignore_value, settings=settings
    )
    return read_measures(measures, labels, ignore_value=ignore_value, settings=settings)


def take_measures(
    reference: Volume,
    prediction: Volume,
    labels: Labels | None,
    *,
    case_id: str,
    ignore_value: int | None = None,
    settings: MetricSettings,
) -> CaseMeasures:
    """The part of `measure_case` that looks at voxels.

    Args:
        reference: Label map ``(1, I, J, K)``.
        prediction: Label map on the same grid.
        labels: Name -> values; None takes every value of the reference as a label, see `name_values`.
        case_id: For messages.
        ignore_value: As `measure_case`.
        settings: Tolerances and the kind of surface.
    """
    counts = count_case(reference, prediction, case_id=case_id)
    if labels is None:
        labels = name_values(counts.reference_values)
    edges_mm = np.array(reference.spacing) * reference.spatial_shape
    measured = measure_structures(reference, prediction, labels, ignore_value=ignore_value, kind=settings.surface)
    return CaseMeasures(
        counts=counts,
        structures={name: _read_structure(found, settings.get_tolerance_mm(name)) for name, found in measured},
        diagonal_mm=float(np.linalg.norm(edges_mm)),
        spacing_mm=max(reference.spacing),
    )


def read_measures(
    measures: CaseMeasures, labels: Labels, *, ignore_value: int | None = None, settings: MetricSettings
) -> list[LabelMetrics]:
    """The part of `measure_case` that needs no voxels.

    Raises:
        LabelError: If a side holds a value that no label has.
    """
    scores = score_counts(measures.counts, labels, ignore_value=ignore_value)
    return [_read_label(measures, score, ignore_value, settings) for score in scores]


def name_values(values: Iterable[int]) -> dict[str, tuple[int]]:
    """Labels for the values of files that nothing names: ``label 3`` and so on, without the background.

    Example:
        >>> name_values({0, 3, 1})
        {'label 1': (1,), 'label 3': (3,)}
    """
    return {f"label {value}": (value,) for value in sorted(set(values) - {0})}


def compute_agreement(counts: CaseCounts, labels: Labels, *, ignore_value: int | None = None) -> CaseAgreement:
    """Pixel accuracy of a case; two values are the same class when they belong to the same labels.

    Returns:
        None for both where no voxel remains: there is nothing to agree on.
    """
    num_agreed: dict[frozenset[str], int] = {}
    num_reference: dict[frozenset[str], int] = {}
    for (reference_value, prediction_value), num_voxels in _iterate_valid(counts.pairs, ignore_value):
        expected, found = _classify(reference_value, labels), _classify(prediction_value, labels)
        num_reference[expected] = num_reference.get(expected, 0) + num_voxels
        num_agreed[expected] = num_agreed.get(expected, 0) + num_voxels * (expected == found)
    recalls = [num_agreed[name] / num_voxels for name, num_voxels in num_reference.items()]
    return CaseAgreement(
        case_id=counts.case_id,
        pixel_accuracy=sum(num_agreed.values()) / sum(num_reference.values()) if num_reference else None,
        mean_pixel_accuracy=sum(recalls) / len(recalls) if recalls else None,
    )


def _classify(value: int, labels: Labels) -> frozenset[str]:
    return frozenset(name for name, values in labels.items() if value in values)


def _iterate_valid(pairs: PairCounts, ignore_value: int | None) -> Iterable[tuple[tuple[int, int], int]]:
    return ((pair, number) for pair, number in pairs.items() if ignore_value is None or pair[0] != ignore_value)


def _read_label(
    measures: CaseMeasures, score: LabelScore, ignore_value: int | None, settings: MetricSettings
) -> LabelMetrics:
    overlap = OverlapCounts(tp=score.tp, fp=score.fp, fn=score.fn)
    num_voxels = sum(number for _, number in _iterate_valid(measures.counts.pairs, ignore_value))
    is_empty = score.status == "both-empty"
    error_ml = None if is_empty else score.prediction_ml - score.reference_ml
    numbers: dict[str, Any] = {
        **asdict(score),
        **_read_overlap_metrics(overlap, num_voxels, settings.beta),
        **_choose_distances(measures, score),
    }
    return LabelMetrics(
        **numbers,
        tn=num_voxels - overlap.tp - overlap.fp - overlap.fn,
        volume_error_ml=error_ml,
        absolute_volume_error_ml=None if error_ml is None else abs(error_ml),
        tolerance_mm=settings.get_tolerance_mm(score.label),
        spacing_mm=measures.spacing_mm,
    )


def _read_overlap_metrics(overlap: OverlapCounts, num_voxels: int, beta: float) -> dict[str, float | None]:
    return {
        "iou": compute_iou(overlap),
        "f_beta": compute_f_beta(overlap, beta),
        "precision": compute_precision(overlap),
        "recall": compute_recall(overlap),
        "specificity": compute_specificity(overlap, num_voxels),
        "accuracy": compute_accuracy(overlap, num_voxels),
    }


def _choose_distances(measures: CaseMeasures, score: LabelScore) -> Mapping[str, float | None]:
    if score.status == "both-empty":
        return {"nsd": None, **dict.fromkeys(_DISTANCES)}
    if score.status != "ok":
        return {"nsd": 0.0, **dict.fromkeys(_DISTANCES, measures.diagonal_mm)}
    return measures.structures[score.label]


def _read_structure(structure: StructureMeasures, tolerance_mm: float) -> dict[str, float]:
    distances = structure.distances
    return {
        "nsd": compute_nsd(distances, tolerance_mm),
        "hd95_mm": compute_hausdorff_mm(distances, 95),
        "hd_mm": compute_hausdorff_mm(distances),
        "assd_mm": compute_assd_mm(distances),
        "rmsd_mm": compute_rmsd_mm(distances),
        "centre_distance_mm": structure.centre_distance_mm,
    }
