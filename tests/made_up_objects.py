"""Objects that touch, on grids of any voxel size, and what a network that has learnt them would say."""

from __future__ import annotations

from typing import Any

import numpy as np

from medunet.tasks import Task, build_target_map
from medunet.volume import Array, Volume

NUCLEI: dict[str, Any] = {
    "name": "nuclei",
    "title": "Nuclei",
    "modality": "MR",
    "channels": ["dapi"],
    "labels": {"nucleus": 1},
    "intensity": "none",
    "output": "instances",
}
TISSUE: dict[str, Any] = NUCLEI | {
    "labels": {"nucleus": 2, "stroma": 3, "cell": 5},
    "output": "panoptic",
    "things": ["nucleus", "cell"],
    "label_divisor": 1000,
}


def build_task(content: dict[str, Any] = NUCLEI, **changes: Any) -> Task:
    return Task.model_validate(content | changes)


def draw_balls(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], centers_mm: Array, radius_mm: float
) -> Volume:
    """Balls that are numbered from 1; where two meet, a voxel belongs to the nearer one."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * np.array(spacing)
    distances = np.stack([np.linalg.norm(places - center, axis=-1) for center in np.asarray(centers_mm)])
    numbers = np.where(distances.min(0) <= radius_mm, distances.argmin(0) + 1, 0)
    return Volume(numbers[None].astype(np.uint16), np.diag([*spacing, 1.0]))


def draw_row(num_balls: int = 5) -> Volume:
    """A picture with discs in a row, each of which overlaps with the next."""
    centers = [(10.0, 10.0 + 14.0 * number, 0.0) for number in range(num_balls)]
    return draw_balls((21, 14 * num_balls + 8, 1), (1.0, 1.0, 1.0), np.array(centers), 8.0)


def draw_pile() -> Volume:
    """Balls side by side and on top of each other, in thick slices."""
    centers = [(10.0, 10.0, 10.0), (10.0, 24.0, 10.0), (24.0, 10.0, 10.0), (10.0, 10.0, 24.0), (24.0, 10.0, 24.0)]
    return draw_balls((35, 35, 9), (1.0, 1.0, 4.0), np.array(centers), 8.0)


def make_probabilities(objects: Volume, task: Task, certainty: float = 0.9) -> tuple[Volume, Volume]:
    """What a good network says about objects: probabilities ``(outputs, I, J, K)``, and the label map of the largest."""
    targets = build_target_map(objects, task)
    values = [0, *(values[0] for values in task.labels.values())]
    one_hot = np.stack([targets.array[0] == value for value in values])
    rest = (1 - certainty) / (len(values) - 1)
    return Volume(np.where(one_hot, certainty, rest).astype(np.float16), objects.affine), targets
