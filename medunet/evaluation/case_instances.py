"""Lesions of a cohort: the connected parts of every label, case by case and over all scans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medunet.evaluation.case import Labels
from medunet.evaluation.instances import (
    InstanceOverlaps,
    compute_average_precision,
    compute_instance_overlaps,
    find_instances,
    score_instances,
    score_lesions,
)
from medunet.evaluation.structure import find_value_boxes, join_boxes, select_values
from medunet.volume import Volume


@dataclass(frozen=True, kw_only=True)
class LabelInstances:
    """The instances of one label of one case.

    Attributes:
        case_id: The case.
        label: Name of the label or region.
        num_reference: Instances of the reference.
        num_prediction: Instances of the prediction.
        num_found: Instances of the reference that share a voxel with the prediction.
        num_false_positives: Instances of the prediction that share none with the reference.
        panoptic_quality: At an IoU of 0.5; None where neither side has an instance.
        segmentation_quality: Mean IoU of the matched pairs; None likewise.
        recognition_quality: F1 of the matched pairs; None likewise.
        average_precision: TP / (TP + FP + FN), the mean over the thresholds 0.5 to 0.95; None likewise.
    """

    case_id: str
    label: str
    num_reference: int
    num_prediction: int
    num_found: int
    num_false_positives: int
    panoptic_quality: float | None
    segmentation_quality: float | None
    recognition_quality: float | None
    average_precision: float | None


@dataclass(frozen=True, kw_only=True)
class InstanceSummary:
    """The instances of one label over all scans.

    Attributes:
        label: Name of the label or region.
        num_scans: Scans, those without an instance too.
        num_reference: Instances of all references.
        num_found: Of them, those that were touched.
        sensitivity: Found / all; None without one.
        false_positives_per_scan: Instances of the masks that touch none.
        panoptic_quality: Mean over the scans where a side has an instance; None without one.
        average_precision: Likewise.
    """

    label: str
    num_scans: int
    num_reference: int
    num_found: int
    sensitivity: float | None
    false_positives_per_scan: float
    panoptic_quality: float | None
    average_precision: float | None


def measure_instances(
    reference: Volume, prediction: Volume, labels: Labels, *, case_id: str, ignore_value: int | None = None
) -> list[LabelInstances]:
    """Match the connected parts of every label of a case.

    Args:
        reference: Label map ``(1, I, J, K)``.
        prediction: Label map on the same grid.
        labels: Name -> values; the parts of a region may touch each other in several values.
        case_id: Goes into the result.
        ignore_value: Voxels with this value in the reference leave both sides.

    Returns:
        One per label.
    """
    sides = (reference.array[0], prediction.array[0])
    boxes = [find_value_boxes(side) for side in sides]
    found = []
    for label, values in labels.items():
        occupied = [of_side[value] for of_side in boxes for value in values if value in of_side]
        if not occupied:
            found.append(build_label_instances(case_id, label, _EMPTY))
            continue
        box = join_boxes(occupied)
        expected, predicted = (select_values(side[box], values) for side in sides)
        if ignore_value is not None:
            is_valid = sides[0][box] != ignore_value
            expected, predicted = expected & is_valid, predicted & is_valid
        overlaps = compute_instance_overlaps(find_instances(expected), find_instances(predicted))
        found.append(build_label_instances(case_id, label, overlaps))
    return found


def build_label_instances(case_id: str, label: str, overlaps: InstanceOverlaps) -> LabelInstances:
    """What is said of the instances of a label of a case."""
    matched, lesions = score_instances(overlaps), score_lesions([overlaps])
    return LabelInstances(
        case_id=case_id,
        label=label,
        num_reference=overlaps.num_reference,
        num_prediction=overlaps.num_prediction,
        num_found=lesions.num_found,
        num_false_positives=lesions.num_false_positives,
        panoptic_quality=matched.panoptic_quality,
        segmentation_quality=matched.segmentation_quality,
        recognition_quality=matched.recognition_quality,
        average_precision=compute_average_precision(overlaps),
    )


def build_no_instances(case_id: str, label: str) -> LabelInstances:
    """A label that neither side of a case has."""
    return build_label_instances(case_id, label, _EMPTY)


def summarize_instances(instances: Iterable[LabelInstances]) -> list[InstanceSummary]:
    """One summary per label, in the order in which the labels first appear."""
    per_label: dict[str, list[LabelInstances]] = {}
    for one in instances:
        per_label.setdefault(one.label, []).append(one)
    return [_summarize(label, cases) for label, cases in per_label.items()]


_EMPTY = InstanceOverlaps(ious=np.zeros((0, 0)), num_shared=np.zeros((0, 0), dtype=np.int64))


def _summarize(label: str, cases: list[LabelInstances]) -> InstanceSummary:
    num_reference = sum(case.num_reference for case in cases)
    num_found = sum(case.num_found for case in cases)
    return InstanceSummary(
        label=label,
        num_scans=len(cases),
        num_reference=num_reference,
        num_found=num_found,
        sensitivity=num_found / num_reference if num_reference else None,
        false_positives_per_scan=sum(case.num_false_positives for case in cases) / len(cases),
        panoptic_quality=_average(case.panoptic_quality for case in cases),
        average_precision=_average(case.average_precision for case in cases),
    )


def _average(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
