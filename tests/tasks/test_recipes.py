"""Recipes: the built-in ones load, and a faulty one is refused by a message that says what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medunet.errors import TaskError
from medunet.tasks import Task, list_tasks, load_task, parse_task, suggest

CONTENT: dict[str, Any] = {
    "name": "pelvis-mr",
    "title": "Pelvis",
    "modality": "MR",
    "channels": ["t2"],
    "labels": {"left": 1, "right": 2},
    "intensity": "zscore",
}
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("*.yaml"))])
def test_every_recipe_loads(name: str) -> None:
    task = load_task(name)
    assert task.name == name in list_tasks()
    assert load_task(CONFIGS / f"{name}.yaml") == task
    assert set(task.codes) == set(task.semantic_labels)


def test_paired_organs_are_declared_left_and_right() -> None:
    for task in map(load_task, list_tasks()):
        sided = {name for name in task.labels if name.endswith(("_left", "_right"))}
        assert {name for pair in task.laterality for name in pair} == sided
        assert all(left.endswith("_left") and right.endswith("_right") for left, right in task.laterality)


def test_numbers_of_a_known_recipe() -> None:
    task = load_task("prostate-ct")
    assert task.labels["femoral_head_left"] == (5,)
    assert task.window_hu == (-200.0, 350.0)
    assert task.num_outputs == 7
    assert task.all_values == (1, 2, 3, 4, 5, 6)
    assert not task.has_regions


def test_a_single_value_is_a_list_of_one() -> None:
    assert parse_task(CONTENT, "x").labels == {"left": (1,), "right": (2,)}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("prostate-tc", "prostate-ct"), ("Spleen_CT", "spleen-ct"), ("hippocampus", "hippocampus-mr")],
)
def test_an_unknown_task_names_the_nearest(written: str, meant: str) -> None:
    with pytest.raises(TaskError, match=f"There is no task '{written}'; did you mean '{meant}'"):
        load_task(written)


def test_a_task_unlike_any_lists_all() -> None:
    with pytest.raises(TaskError, match=r"known are brain-tumour-mr, .*, stained-cells\. `medunet tasks`"):
        load_task("zzzzzz")


@pytest.mark.parametrize(("key", "meant"), [("chanels", "channels"), ("label", "labels"), ("window", "window_hu")])
def test_an_unknown_key_names_the_nearest(key: str, meant: str) -> None:
    with pytest.raises(TaskError, match=rf"recipe\.yaml has the unknown key '{key}'; did you mean '{meant}'\?$"):
        parse_task(CONTENT | {key: 1}, "recipe.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {}}, "labels: Dictionary should have at least 1 item"),
        ({"labels": {"left": 0}}, r"label 'left' has the values \[0\]; expected distinct positive integers"),
        ({"labels": {"left": -1}}, "expected distinct positive integers"),
        ({"labels": {"left": [1, 1]}}, "expected distinct positive integers"),
        ({"labels": {"left": []}}, "expected distinct positive integers"),
        ({"labels": {"left": 1.5}}, "labels.left.0: Input should be a valid integer"),
        ({"labels": {f"l{n}": n for n in range(1, 256)}}, "there are 255; at most 254"),
        ({"ignore": 2}, "ignore: 2 is also the value of a label"),
        ({"channels": []}, "channels: "),
        ({"modality": "PET"}, "modality: Input should be 'CT', 'MR', 'photo' or 'microscopy'"),
        ({"intensity": "minmax"}, "intensity: Input should be 'ct-window'"),
        ({"intensity": "ct-window"}, "window_hu belongs to intensity: ct-window"),
        ({"window_hu": [0, 1]}, "window_hu belongs to intensity: ct-window"),
        ({"intensity": "ct-window", "window_hu": [5, 5]}, "must rise"),
        ({"laterality": [["left", "rigth"]]}, r"'rigth' is not among the labels; did you mean 'right'\?$"),
        ({"codes": {"lefd": {"value": "1", "meaning": "x"}}}, "did you mean 'left'"),
        ({"codes": {"left": {"value": "1"}}}, "codes.left.meaning: Field required"),
        ({"name": "../evil"}, "name: String should match"),
        ({"labels": {"whole": [1, 2], "a": 1, "b": 2}}, "region 'whole' has no value of its own"),
        ({"labels": {"a": [1, 2], "b": [2, 3]}}, "regions 'a' and 'b' overlap without one lying within the other"),
        (
            {"labels": {"left": [1, 2], "right": 3}, "laterality": [["left", "right"]]},
            "laterality: 'left' and 'right' have different numbers of values",
        ),
        ({"laterality": [["left", "left"]]}, "swaps 'left' and 'left', but not with each other alone"),
        (
            {"labels": {"left": 1, "right": 2, "mid": 3}, "laterality": [["left", "right"], ["left", "mid"]]},
            "swaps 'left' and 'mid', but not with each other alone",
        ),
        (  # the kidneys say 2 <-> 3, their tumours 2 <-> 4: mirrored twice, a tumour would not come back
            {
                "labels": {"kidney_l": [1, 2], "tumour_l": 2, "kidney_r": [4, 3], "tumour_r": 4},
                "laterality": [["kidney_l", "kidney_r"], ["tumour_l", "tumour_r"]],
            },
            "'tumour_l' and 'tumour_r' swaps the values 2 and 4, but not with each other alone",
        ),
        ({"labels": {"": 1}}, "labels: '' is no name; expected one line of 1 to 200 letters"),
        ({"labels": {"left\nright": 1}}, r"labels: 'left\\nright' is no name"),
        ({"channels": ["x" * 300]}, "channels: 'x+' is no name"),
        ({"channels": ["t2", "t1", "t2"]}, "channels: 't2' is there twice"),
        ({"ignore": 0}, "ignore: 0 is no value of its own; expected a positive integer"),
        ({"intensity": "ct-window", "window_hu": [float("nan"), 5]}, "must rise from one finite number to another"),
        ({"intensity": "ct-window", "window_hu": [0, float("inf")]}, "must rise from one finite number to another"),
    ],
)
def test_a_fault_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        parse_task(CONTENT | changes, "recipe.yaml")


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_what_is_no_mapping_is_no_recipe(content: Any) -> None:
    with pytest.raises(TaskError, match=r"recipe\.yaml is no task recipe; expected keys such as name, title"):
        parse_task(content, "recipe.yaml")


def test_row_44_a_python_tag_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "made-by-yaml"
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.mkdir [!!python/object/apply:pathlib.Path [{victim}]]\n")
    with pytest.raises(TaskError, match=r"is no plain YAML \(line 1\): could not determine a constructor"):
        load_task(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"name: [", r"no plain YAML \(line 1\)"), (b"a: b: c", r"\(line 1\)"), (b"\xff\xfe\x00", "no plain YAML")],
)
def test_what_is_no_yaml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=message):
        load_task(path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_recipe_that_cannot_be_read(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "x.yaml"
    make(path)
    with pytest.raises(TaskError, match=r"x\.yaml cannot be read: .*Check the path"):
        load_task(path)


def test_suggest_ends_like_a_sentence() -> None:
    assert suggest("chanel", ["channels", "labels"]) == "did you mean 'channels'?"
    assert suggest("qqq", ["channels", "labels"]) == "known are channels, labels."


def test_a_task_survives_json() -> None:
    for task in map(load_task, list_tasks()):
        assert Task.model_validate_json(task.model_dump_json()) == task
