"""From values in files to codes and channels, and back to values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medunet.tasks import Task, compute_membership, encode_labels, list_class_values, load_task
from medunet.volume import Volume


def build_task(labels: dict[str, Any], ignore: int | None = None) -> Task:
    content = {"name": "x", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none"}
    return Task.model_validate(content | {"labels": labels, "ignore": ignore})


def encode(values: list[int], task: Task) -> list[int]:
    array = np.array(values, np.int32).reshape(1, -1, 1, 1)
    codes = encode_labels(Volume(array, np.eye(4)), task)
    assert codes.array.dtype == np.uint8
    return codes.array.reshape(-1).tolist()


@pytest.mark.parametrize(
    ("labels", "ignore", "values", "codes"),
    [
        ({"a": 1, "b": 2}, None, [0, 1, 2], [0, 1, 2]),
        ({"a": 7, "b": 3}, None, [0, 3, 7], [0, 2, 1]),  # codes follow the order of the recipe
        ({"a": [1, 5], "b": 2}, None, [5, 2, 1, 0], [1, 2, 1, 0]),  # two values that make one label
        ({"a": 300, "b": 70_000}, None, [300, 70_000], [1, 2]),  # beyond a byte
        ({"a": 1}, 9, [9, 1, 0], [255, 1, 0]),
        ({"a": 1}, 255, [255, 1], [255, 1]),
        ({"a": 255, "b": 254}, 1, [255, 254, 1], [1, 2, 255]),
        ({"all": [1, 2, 4], "core": [2, 4], "seed": 4}, 3, [4, 2, 1, 0, 3], [3, 2, 1, 0, 255]),
    ],
)
def test_codes_are_small_and_consecutive(
    labels: dict[str, Any], ignore: int | None, values: list[int], codes: list[int]
) -> None:
    assert encode(values, build_task(labels, ignore)) == codes


def test_254_labels_fit() -> None:
    task = build_task({f"l{n}": n for n in range(1, 255)}, ignore=255)
    assert encode([1, 254, 255, 0], task) == [1, 254, 255, 0]


def test_a_class_is_a_code_for_plain_labels() -> None:
    task = build_task({"a": [7, 8], "b": 3})
    assert compute_membership(task).tolist() == np.eye(3).tolist()
    assert list_class_values(task) == [0, 7, 3]


def test_a_value_belongs_to_every_region_that_holds_it() -> None:
    task = build_task({"seed": 4, "all": [1, 2, 4], "core": [4, 2]})
    # Columns: background, value 1, value 2, value 4.
    assert compute_membership(task).astype(int).tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert task.num_outputs == 3


def test_large_regions_are_painted_first() -> None:
    assert build_task({"seed": 4, "all": [1, 2, 4], "core": [4, 2]}).compute_region_values() == [
        ("all", 1),
        ("core", 2),
        ("seed", 4),
    ]


@pytest.mark.parametrize(
    "labels", [{"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, {"seed": 4, "all": [1, 2, 4], "core": [4, 2]}]
)
def test_painting_regions_that_lie_within_each_other_gives_the_stored_value_back(labels: dict[str, Any]) -> None:
    task = build_task(labels)
    membership = compute_membership(task)
    for code, value in enumerate(task.all_values, start=1):
        holds = {name for row, name in enumerate(task.labels) if membership[row, code]}
        assert holds == {name for name, values in task.labels.items() if value in values}
        painted = [paint for name, paint in task.compute_region_values() if name in holds]
        assert painted[-1] == value


def test_brain_tumour_paints_its_own_values() -> None:
    assert load_task("brain-tumour-mr").compute_region_values() == [
        ("whole_tumour", 1),
        ("tumour_core", 2),
        ("enhancing_tumour", 3),
    ]
