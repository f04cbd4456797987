"""Whose voxel is whose where labels meet: what a label may take, and what becomes of what it gives up.

- A label takes background only, never a voxel of another label. A region within another takes what shows around it, and
  nothing outside of that: regions stay nested.
- What leaves a label becomes background, or what shows around the region; with it go the regions within.
- Values that belong to no label, such as the one that a task ignores, are neither taken nor given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medunet.tasks import Task


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """How one label stands in a label map.

    Attributes:
        values: Of its voxels.
        paint: Value of the voxels that it takes.
        around: Value of the voxels that it may take, and of those that leave it.
    """

    values: tuple[int, ...]
    paint: int
    around: int = 0


def build_task_rules(task: Task) -> dict[str, LabelRule]:
    """Label name -> rule, in the order of the task."""
    if not task.has_regions:
        return build_plain_rules(task.labels)
    painted = dict(task.compute_region_values())
    return {
        name: LabelRule(values=values, paint=painted[name], around=find_value_around(task, name))
        for name, values in task.labels.items()
    }


def build_plain_rules(labels: Mapping[str, tuple[int, ...]]) -> dict[str, LabelRule]:
    """The same for labels that share no value."""
    return {name: LabelRule(values=values, paint=values[0]) for name, values in labels.items()}


def find_value_around(task: Task, name: str) -> int:
    """The value that a label map shows where the smallest region around a region is and the region itself is not."""
    values = set(task.labels[name])
    painted = dict(task.compute_region_values())
    around = [other for other in painted if values < set(task.labels[other])]
    return painted[min(around, key=lambda other: len(task.labels[other]))] if around else 0
