"""Objects of a cohort, case by case and over all scans: the connected parts of every label (lesions), or, of a task with
instances, what files number one by one.
"""

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
from medunet.tasks import Task
from medunet.volume import Array, Volume


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
        average_precision_50: The same at an IoU of 0.5 alone; None likewise.
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
    average_precision_50: float | None


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
        num_scored: Scans where a side has an instance: those in the means below.
        panoptic_quality: Mean over these scans; None without one.
        average_precision: Likewise.
        average_precision_50: Likewise.
        recognition_quality: Likewise.
    """

    label: str
    num_scans: int
    num_reference: int
    num_found: int
    sensitivity: float | None
    false_positives_per_scan: float
    num_scored: int
    panoptic_quality: float | None
    average_precision: float | None
    average_precision_50: float | None
    recognition_quality: float | None


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


def measure_objects(reference: Volume, prediction: Volume, task: Task, *, case_id: str) -> list[LabelInstances]:
    """Match the objects of two masks of a task with instances.

    A label that is no objects (panoptic output) is one segment per side, as in the panoptic quality.

    Args:
        reference: ``(1, I, J, K)`` as in label files: a value per object, or label times ``label_divisor`` plus number.
        prediction: The same, on the same grid; numbers need not agree.
        task: With instances.
        case_id: Goes into the result.

    Returns:
        One per label.
    """
    expected, found = reference.array[0], prediction.array[0]
    if task.ignore is not None:
        found = np.where(expected == task.ignore, 0, found)
    return [
        build_label_instances(
            case_id,
            label,
            compute_instance_overlaps(select_objects(expected, task, label), select_objects(found, task, label)),
        )
        for label in task.semantic_labels
    ]


def select_objects(numbers: Array, task: Task, label: str) -> Array:
    """The objects of one label of a task with instances.

    Args:
        numbers: ``(I, J, K)`` as in label files.
        task: With instances.
        label: One of its `semantic_labels`.

    Returns:
        The same without the objects of other labels and what is ignored; a label that is no objects is 1.
    """
    if task.label_divisor is None:
        is_inside = numbers > 0
    else:
        is_inside = numbers // task.label_divisor == task.labels[label][0]
    if task.ignore is not None:
        is_inside &= numbers != task.ignore
    selected: Array = np.where(is_inside, numbers, 0) if label in task.things else is_inside.astype(np.uint8)
    return selected


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
        average_precision_50=matched.average_precision,
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


_EMPTY = compute_instance_overlaps(*[np.zeros((1, 1, 1), dtype=np.uint8)] * 2)


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
        num_scored=sum(case.panoptic_quality is not None for case in cases),
        panoptic_quality=_average(case.panoptic_quality for case in cases),
        average_precision=_average(case.average_precision for case in cases),
        average_precision_50=_average(case.average_precision_50 for case in cases),
        recognition_quality=_average(case.recognition_quality for case in cases),
    )


def _average(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
