"""A small network that locates is planned where it can save much, and nowhere else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from made_up_fingerprints import make_fingerprint, make_task

from medunet.planning import Effort, Plan, build_locator_task, build_plan, plan_locator
from medunet.planning.locator import REDUCTION
from medunet.tasks import Task, encode_labels
from medunet.volume import Volume

EFFORT = Effort(voxels=2 * 64**3, features=16, batch_size=2)
WIDE = (300, 320, 280)


def plan_main(shape: tuple[int, int, int] = WIDE, **options: Any) -> tuple[Any, Task, Plan]:
    task = make_task()
    fingerprint = make_fingerprint((1.5, 1.5, 1.5), shape, 20, label_volumes_ml={"a": 40.0, **options})
    return fingerprint, task, build_plan(fingerprint, task, EFFORT)


def test_a_small_organ_in_a_large_scan_is_located() -> None:
    fingerprint, task, main = plan_main()
    plan, reason = plan_locator(fingerprint, task, main)
    assert plan is not None
    assert "0.0%" in reason or "0.1%" in reason
    assert min(plan.spacing) > 2 * max(main.spacing)
    assert plan.network.out_channels == 2
    assert max(plan.network.features) <= main.network.features[0] * 8
    assert plan.task == f"{task.name}-locator"


def test_a_locator_is_coarser_than_what_a_small_budget_made_coarse() -> None:
    """Else looking for the box would cost as much as segmenting all of it."""
    fingerprint, task, main = plan_main((200, 210, 190))
    hurried = build_plan(fingerprint, task, Effort(voxels=2 * 32**3, features=16, batch_size=2, total_voxels=5e6))
    assert min(hurried.spacing) == pytest.approx(3.0)
    usual, _ = plan_locator(fingerprint, task, main)
    plan, _ = plan_locator(fingerprint, task, hurried)
    assert usual is not None
    assert plan is not None
    most = math.prod(hurried.median_shape) / REDUCTION
    assert math.prod(usual.median_shape) > most  # what the rule alone would leave
    assert math.prod(plan.median_shape) == pytest.approx(most, rel=0.1)
    assert max(plan.spacing) < 2.1 * max(hurried.spacing)  # no coarser than it must be
    assert "the case has at most" in plan.reasons["low_resolution"]


@pytest.mark.parametrize(
    ("shape", "volumes", "words"),
    [
        (WIDE, {"a": 12_000.0}, "10% or more"),
        ((70, 72, 68), {"a": 4.0}, "few tiles to save"),
    ],
)
def test_nothing_is_located_where_little_can_be_saved(
    shape: tuple[int, int, int], volumes: dict[str, float], words: str
) -> None:
    fingerprint, task, main = plan_main(shape, **volumes)
    plan, reason = plan_locator(fingerprint, task, main)
    assert plan is None
    assert words in reason


def test_other_configurations_look_everywhere() -> None:
    fingerprint, task, main = plan_main()
    assert plan_locator(fingerprint, task, main.model_copy(update={"configuration": "2d"}))[0] is None


def test_all_structures_are_one(make_volume: Any) -> None:
    task = Task.model_validate(
        {
            "name": "x",
            "title": "x",
            "modality": "CT",
            "channels": ["ct"],
            "labels": {"left": 2, "right": [3, 7]},
            "ignore": 9,
            "intensity": "none",
        }
    )
    located = build_locator_task(task)
    assert (located.labels, located.num_outputs, located.ignore) == ({"structures": (2, 3, 7)}, 2, 9)
    volume: Volume = make_volume(shape=(1, 1, 5))
    codes = encode_labels(volume.with_array(volume.array.astype(int) * 0 + [[[[0, 2, 3, 7, 9]]]]), located)
    assert codes.array[0, 0, 0].tolist() == [0, 1, 1, 1, 255]


def test_what_is_said_of_single_labels_is_not_said_of_all_as_one() -> None:
    task = make_task()
    (name, *_) = task.labels
    told = Task.model_validate(
        task.model_dump() | {"tolerances_mm": {name: 1.0}, "postprocessing": {name: "fill-holes"}}
    )
    located = build_locator_task(told)
    assert (located.tolerances_mm, located.postprocessing) == ({}, {})
