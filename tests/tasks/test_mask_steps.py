"""Steps in recipes: what is understood, and what a message says where it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from medunet.errors import TaskError
from medunet.tasks import (
    MASK_STEPS,
    Closing,
    FillHoles,
    KeepLargest,
    MaskStep,
    OnePerSide,
    Opening,
    RemoveSmall,
    Smooth,
    Task,
    describe_step,
    load_task,
    parse_step,
    parse_task,
)

ALL: list[MaskStep] = [
    KeepLargest(),
    RemoveSmall(ml=0.25),
    FillHoles(),
    FillHoles(plane="axial"),
    Opening(mm=2.0),
    Closing(mm=1.5),
    Smooth(mm=1.0),
    OnePerSide(),
]


def test_every_step_is_in_the_list() -> None:
    assert {type(step) for step in ALL} == set(MASK_STEPS.values())
    assert all(dataclasses.is_dataclass(kind) for kind in MASK_STEPS.values())


@pytest.mark.parametrize("step", ALL, ids=describe_step)
def test_what_is_written_is_read(step: MaskStep) -> None:
    task = Task.model_validate(
        load_task("prostate-ct").model_dump() | {"postprocessing": {"femoral_head_left": [step]}}
    )
    assert parse_step(describe_step(step)) == step
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert task.postprocessing == {"femoral_head_left": (step,)}


def test_the_three_forms_of_a_step() -> None:
    wanted = RemoveSmall(ml=0.5)
    assert (
        parse_step("remove-small:ml=0.5") == parse_step({"remove-small": {"ml": 0.5}}) == parse_step(wanted) == wanted
    )
    assert parse_step("fill-holes") == parse_step({"fill-holes": {}}) == parse_step({"fill-holes": None}) == FillHoles()
    assert parse_step("fill-holes:plane=axial") == FillHoles(plane="axial")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("keep-larges", "no step 'keep-larges'; did you mean 'keep-largest'"),
        ("remove-small", "remove-small needs the option 'ml'"),
        ("remove-small:ml=x", "remove-small: ml is 'x'; expected a number above 0"),
        ("remove-small:ml=0", "ml is 0; expected a number above 0"),
        ("remove-small:ml=nan", "expected a number above 0"),
        ("opening:mm=inf", "expected a number above 0"),
        ({"opening": {"mm": True}}, "mm is True; expected a number above 0"),
        ({"opening": {"ml": 1}}, "opening has no option 'ml'; did you mean 'mm'"),
        ("keep-largest:ml=1", "keep-largest has no option 'ml'; it has none"),
        ("opening:", "ends after the colon"),
        ("opening:2", "has the option '2'; expected key=value"),
        ("fill-holes:plane=axal", "there is no plane 'axal'; did you mean 'axial'"),
        ({"opening": 2}, "is no step; expected a name"),
        ({"opening": {"mm": 1}, "closing": {"mm": 1}}, "is no step; expected a name"),
        (7, "is no step; expected a name"),
    ],
)
def test_what_is_no_step_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_step(content)


def test_a_recipe_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    recipe = load_task("prostate-ct").model_dump(mode="json")

    def read(postprocessing: Any) -> Task:
        return parse_task(recipe | {"postprocessing": postprocessing}, "task.yaml")

    assert read({"bladder": "fill-holes"}).postprocessing == {"bladder": (FillHoles(),)}
    with pytest.raises(
        TaskError, match=r"^task.yaml: postprocessing.bladder.1: there is no step 'smoth'; did you mean 'smooth'"
    ):
        read({"bladder": ["fill-holes", "smoth"]})
    with pytest.raises(TaskError, match="'blader' is not among the labels; did you mean 'bladder'"):
        read({"blader": ["fill-holes"]})
    with pytest.raises(TaskError, match="one-per-side of 'bladder' needs a pair of plain labels"):
        read({"bladder": ["one-per-side"]})
    with pytest.raises(TaskError, match="valid dictionary"):
        read(["fill-holes"])
