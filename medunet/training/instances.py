"""How objects that touch are told apart best, found on the validation cases after training.

Every validation case is segmented once, and its probabilities are put aside on the disk. One setting of the watershed is
changed after the other, and what finds most objects is kept. Then all cases are scored as a user would get them.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medunet.device import is_out_of_memory
from medunet.errors import InputError
from medunet.evaluation import (
    InstanceOverlaps,
    LabelInstances,
    LabelScore,
    compute_instance_overlaps,
    measure_objects,
    score_case,
    score_instances,
    select_objects,
    summarize_instances,
    summarize_scores,
)
from medunet.inference.maps import ProbabilityListener
from medunet.models import InstanceRules, ObjectRule, SpeedRecord
from medunet.postprocessing import separate_objects
from medunet.tasks import Case, Task, compute_semantic_map, read_objects
from medunet.training.progress import Observer
from medunet.training.validation import NetworkSegmenter
from medunet.volume import Array, Volume

logger = logging.getLogger(__name__)

MARKER_THRESHOLDS = (0.5, 0.35, 0.65, 0.8, 0.9)
MASK_THRESHOLDS = (0.5, 0.4, 0.6)
VOLUME_SHARES = (0.5, 0.0, 0.25, 1.0)
"""Of the volume that 98 of 100 training objects exceed. The first of each is kept unless another is better."""
_SMALL_QUANTILE = 0.02
_MAX_MEASURED, _MAX_TUNED = 40, 16
"""Cases whose objects are measured, and on which settings are tried; spread over all."""


@dataclass(frozen=True, kw_only=True)
class InstanceValidation:
    """How well objects were found.

    Attributes:
        rules: With which.
        instances: One per validation case and label of objects.
        scores: Overlap of the labels, without borders and whatever the object; one per case and label.
    """

    rules: InstanceRules
    instances: tuple[LabelInstances, ...] = ()
    scores: tuple[LabelScore, ...] = ()

    def describe(self) -> list[str]:
        """A line per label for people; none without a validation case."""
        dices = {summary.label: summary.mean for summary in summarize_scores(self.scores)}
        return [
            f"{one.label}: {one.num_reference} objects in {one.num_scans} validation case(s), AP at IoU 0.5 "
            f"{_format(one.average_precision_50)}, PQ {_format(one.panoptic_quality)}, "
            f"F1 {_format(one.recognition_quality)}, Dice of all together {_format(dices.get(one.label))}"
            for one in summarize_instances(self.instances)
        ]

    def to_metrics(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return {
            "rules": self.rules.describe(),
            "summary": [dataclasses.asdict(one) for one in summarize_instances(self.instances)],
            "dice": {summary.label: summary.mean for summary in summarize_scores(self.scores)},
            "cases": [dataclasses.asdict(one) for one in self.instances],
        }


def fit_instances(
    segmenter: NetworkSegmenter,
    training_cases: Sequence[Case],
    validation_cases: Sequence[Case],
    observer: Observer,
    *,
    speed: SpeedRecord | None = None,
) -> InstanceValidation:
    """Choose how objects are told apart, and score that.

    Args:
        segmenter: The trained network, of a task with instances.
        training_cases: Their objects say how small one may be.
        validation_cases: Decide about thresholds and the least volume; without any, the first of each stays. Cases that
            cannot be read or segmented are passed over.
        observer: Told of every case.
        speed: What was measured before (`medunet.training.speed`).
    """
    task = segmenter.task
    smallest_mm3 = measure_smallest_objects(training_cases, task)
    rules = InstanceRules(
        labels={name: ObjectRule(min_volume_mm3=VOLUME_SHARES[0] * smallest_mm3.get(name, 0.0)) for name in task.things}
    )
    if not validation_cases:
        return InstanceValidation(rules=rules)
    with tempfile.TemporaryDirectory(prefix="medunet-instances-") as folder:
        cases = _segment(segmenter, validation_cases, Path(folder), observer, speed)
        tuned = [cases[number] for number in _spread(len(cases), _MAX_TUNED)]
        for name in task.things:
            rules = _tune(rules, name, smallest_mm3.get(name, 0.0), tuned, task)
        rules = rules.model_copy(update={"num_cases": len(tuned)})
        instances: list[LabelInstances] = []
        scores: list[LabelScore] = []
        for case in cases:
            objects, labels = separate_objects(case.read_probabilities(), case.labels, task, rules)
            instances += measure_objects(case.reference, objects.numbers, task, case_id=case.case_id)
            scores += score_case(
                compute_semantic_map(case.reference, task),
                labels,
                task.semantic_labels,
                case_id=case.case_id,
                ignore_value=task.ignore,
            )
    return InstanceValidation(rules=rules, instances=tuple(instances), scores=tuple(scores))


def measure_smallest_objects(cases: Sequence[Case], task: Task) -> dict[str, float]:
    """Label -> the volume in mm3 that 98 of 100 of its objects exceed; those that the border of a case cuts tell nothing, and
    labels without any other object are left out.
    """
    volumes: dict[str, list[float]] = {}
    for number in _spread(len(cases), _MAX_MEASURED):
        try:
            _, objects = read_objects(cases[number], task)
        except InputError:
            continue  # training has said what is wrong with it
        for name in task.things:
            selected = select_objects(objects.array[0], task, name)
            cut = {0, *(value for face in _list_faces(selected) for value in np.unique(face).tolist())}
            for value, size in zip(*np.unique(selected, return_counts=True), strict=True):
                if int(value) not in cut:
                    volumes.setdefault(name, []).append(float(size) * objects.voxel_volume_mm3)
    return {name: float(np.quantile(found, _SMALL_QUANTILE)) for name, found in volumes.items() if found}


def _list_faces(numbers: Array) -> list[Array]:
    """The outermost planes; a picture has none along its third axis."""
    return [np.take(numbers, end, axis) for axis in range(3) if numbers.shape[axis] > 1 for end in (0, -1)]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Segmented:
    """A validation case; its probabilities wait on the disk.

    Attributes:
        case_id: The case.
        reference: Its objects, as in the label file.
        labels: Which output is the most probable.
        path: Of the probabilities.
    """

    case_id: str
    reference: Volume
    labels: Volume
    path: Path

    def read_probabilities(self) -> Volume:
        """``(outputs, I, J, K)`` float16."""
        return Volume(np.load(self.path), self.labels.affine)


def _segment(
    segmenter: NetworkSegmenter, cases: Sequence[Case], folder: Path, observer: Observer, speed: SpeedRecord | None
) -> list[_Segmented]:
    segmented = []
    for number, case in enumerate(cases, start=1):
        try:
            image, reference = read_objects(case, segmenter.task)
            listener = ProbabilityListener(segmenter.task, image)
            labels = segmenter.segment(image, speed=speed, on_slab=listener.add)
            probabilities = listener.finish()
        except Exception as error:
            if not (isinstance(error, InputError) or is_out_of_memory(error)):
                raise
            continue  # validation has said what is wrong with it
        path = folder / f"{number}.npy"
        np.save(path, probabilities.array)
        segmented.append(_Segmented(case_id=case.case_id, reference=reference, labels=labels, path=path))
        observer.on_case("telling objects apart", case.case_id, number, len(cases))
    return segmented


def _tune(
    rules: InstanceRules, name: str, smallest_mm3: float, cases: Sequence[_Segmented], task: Task
) -> InstanceRules:
    """Change one setting of a label after the other, and keep what is better."""
    steps: list[tuple[str, list[float]]] = [
        ("marker_threshold", list(MARKER_THRESHOLDS)),
        ("mask_threshold", list(MASK_THRESHOLDS)),
        ("min_volume_mm3", [share * smallest_mm3 for share in VOLUME_SHARES]),
    ]
    best, best_score = rules, _rate(rules, name, cases, task)
    for setting, values in steps:
        for value in values:
            rule = best.get_rule(name).model_copy(update={setting: value})
            tried = best.model_copy(update={"labels": {**best.labels, name: rule}})
            if tried == best:
                continue
            score = _rate(tried, name, cases, task)
            if score > best_score:
                best, best_score = tried, score
    return best


def _rate(rules: InstanceRules, name: str, cases: Sequence[_Segmented], task: Task) -> float:
    """AP at IoU 0.5 plus panoptic quality, over the objects of all cases together."""
    tp, fp, fn, sum_ious = 0, 0, 0, 0.0
    for case in cases:
        objects, _ = separate_objects(case.read_probabilities(), case.labels, task, rules)
        overlaps = compare_objects(case.reference.array[0], objects.numbers.array[0], task, name)
        score = score_instances(overlaps)
        tp, fp, fn = tp + score.tp, fp + score.fp, fn + score.fn
        sum_ious += score.tp * (score.segmentation_quality or 0.0)
    if tp == 0:
        return 0.0
    return tp / (tp + fp + fn) + sum_ious / (tp + fp / 2 + fn / 2)


def compare_objects(reference: Array, prediction: Array, task: Task, name: str) -> InstanceOverlaps:
    """Overlaps of the objects of one label; what the reference ignores leaves both sides."""
    expected, found = (select_objects(side, task, name) for side in (reference, prediction))
    if task.ignore is not None:
        found = np.where(reference == task.ignore, 0, found)
    return compute_instance_overlaps(expected, found)


def _spread(length: int, limit: int) -> Iterable[int]:
    """At most so many places, spread over all."""
    return sorted(set(np.linspace(0, length - 1, min(limit, length)).round().astype(int).tolist())) if length else []


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
