"""A small network at low resolution that finds where the structures are, so that the main one looks only there.

As nnU-Net's low resolution says where things are to its cascade (doi:10.1038/s41592-020-01008-z); here it says only in which box, and
the main network sees nothing of it. In spinal cords, cropping to the organ first made inference on a CPU 17 times faster
(https://github.com/ivadomed/seg-sc-ms-lesion/issues/151).
"""

from __future__ import annotations

import math

from medunet.errors import InputError
from medunet.planning.fingerprint import Fingerprint
from medunet.planning.plan import Plan
from medunet.planning.planner import build_plan
from medunet.planning.targets import Effort
from medunet.tasks import Task

LOCATOR_LABEL = "structures"
LOCATOR_EFFORT = Effort(voxels=2 * 48**3, features=8, batch_size=2)
MAX_FILL = 0.1
"""Share of a case that its labels may fill and still leave enough to skip."""
MAX_COVERAGE = 0.125
"""Share of the median case that a patch of the main network may cover; of more, there is nothing to save."""

REDUCTION = 8
"""Times fewer voxels than the main network sees: twice as coarse along every axis. A budget may have made those coarse already."""


def build_locator_task(task: Task) -> Task:
    """All structures of a task as one.

    Example:
        >>> from medunet.tasks import load_task
        >>> build_locator_task(load_task("hippocampus-mr")).labels
        {'structures': (1, 2)}
    """
    changes = {
        "name": f"{task.name}-locator",
        "title": f"Where the structures of {task.name} are",
        "labels": {LOCATOR_LABEL: task.all_values},
        "laterality": (),
        "codes": {},
        "synonyms": {},
        "tolerances_mm": {},
        "postprocessing": {},
        "phantom": None,
    }
    return Task.model_validate(task.model_dump() | changes)


def plan_locator(fingerprint: Fingerprint, task: Task, main: Plan) -> tuple[Plan | None, str]:
    """The plan of the small network, where it can save much.

    Args:
        fingerprint: Of the training cases.
        task: Of the main network.
        main: Plan of the main network.

    Returns:
        The plan, for the task of `build_locator_task`; None where none is worth it; and why.
    """
    if task.has_instances:
        return None, "objects may lie anywhere"
    if main.configuration != "3d":
        return None, f"the configuration is {main.configuration}"
    fill = _compute_fill(fingerprint)
    if fill >= MAX_FILL:
        return None, f"the structures fill {fill:.0%} of a case, {MAX_FILL:.0%} or more"
    coverage = math.prod(main.patch_size) / math.prod(main.median_shape)
    if coverage > MAX_COVERAGE:
        return None, f"a patch covers {min(1, coverage):.0%} of the median case, so that there are few tiles to save"
    try:
        plan = build_plan(
            fingerprint,
            build_locator_task(task),
            LOCATOR_EFFORT,
            "3d-low",
            max_low_voxels=math.prod(main.median_shape) / REDUCTION,
        )
    except InputError:
        return None, "even its small patch covers a quarter of the median case"
    return plan, f"the structures fill {fill:.1%} of a case, of which a patch covers {coverage:.1%}"


def _compute_fill(fingerprint: Fingerprint) -> float:
    """Share of the body box that all labels of a typical case fill together."""
    boxes_ml = [
        math.prod(shape) * math.prod(spacing) / 1000
        for shape, spacing in zip(fingerprint.body_shapes, fingerprint.spacings, strict=True)
    ]
    median_ml = sorted(boxes_ml)[len(boxes_ml) // 2]
    return sum(fingerprint.label_volumes_ml.values()) / median_ml
