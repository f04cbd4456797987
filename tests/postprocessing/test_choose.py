"""A step is taken only where it helps and harms no label; the numbers that decided are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medunet.postprocessing import Postprocessing, choose_postprocessing
from medunet.tasks import Task, load_task

TASK = Task(
    name="organs-ct",
    title="Organs",
    modality="CT",
    channels=("ct",),
    labels={"liver": (1,), "spleen": (2,), "aorta": (3,)},  # type: ignore[arg-type]
    intensity="none",
)
ONE = Task.model_validate(TASK.model_dump() | {"labels": {"liver": (1,)}})
REGIONS = load_task("brain-tumour-mr")
WHOLE, CORE, ENHANCING = [name for name, _ in REGIONS.compute_region_values()]

Dices = dict[str, float | None]


class Measure:
    """Mean Dice as a function of what is done: a base, and what each step adds to each label."""

    def __init__(self, base: Dices, changes: dict[str, dict[str, float | None]]) -> None:
        self.base, self.changes = base, changes
        self.asked: list[Postprocessing] = []

    def __call__(self, postprocessing: Postprocessing) -> Dices:
        self.asked.append(postprocessing)
        dices = dict(self.base)
        steps = [*(["foreground"] if postprocessing.keep_largest_foreground else []), *postprocessing.keep_largest]
        for step in steps:
            for name, change in self.changes.get(step, {}).items():
                before = dices[name]
                dices[name] = None if change is None or before is None else before + change
        return dices


BASE: Dices = {"liver": 0.9, "spleen": 0.8, "aorta": 0.7}


@pytest.mark.parametrize(
    ("changes", "foreground", "labels"),
    [
        ({}, False, ()),
        ({"liver": {"liver": 0.01}}, False, ("liver",)),
        ({"liver": {"liver": 0.01}, "aorta": {"aorta": 0.02}, "spleen": {"spleen": -0.01}}, False, ("liver", "aorta")),
        ({"foreground": {"liver": 0.01}}, True, ()),
        ({"foreground": {"liver": 0.05, "aorta": -0.001}}, False, ()),  # the mean rises, but one label falls
        ({"foreground": {"liver": -0.01}, "liver": {"liver": 0.01}}, False, ("liver",)),
        ({"foreground": {"liver": 0.01}, "spleen": {"spleen": 0.01}}, True, ("spleen",)),
        ({"foreground": {"liver": 0.0}}, False, ()),  # equal is no help
    ],
)
def test_what_helps_is_taken(
    changes: dict[str, dict[str, float | None]], foreground: bool, labels: tuple[str, ...]
) -> None:
    chosen = choose_postprocessing(TASK, 7, Measure(BASE, changes))
    assert (chosen.keep_largest_foreground, chosen.keep_largest) == (foreground, labels)
    assert chosen.num_cases == 7
    assert [step.step for step in chosen.tried] == ["foreground", "label liver", "label spleen", "label aorta"]
    assert {step.step for step in chosen.tried if step.is_used} == (
        ({"foreground"} if foreground else set()) | {f"label {name}" for name in labels}
    )


def test_the_reasons_hold_the_numbers() -> None:
    changes = {"foreground": {"liver": 0.05, "aorta": -0.25}, "spleen": {"spleen": 0.125}}
    chosen = choose_postprocessing(TASK, 3, Measure({"liver": 0.5, "spleen": 0.5, "aorta": 0.5}, changes))  # type: ignore[arg-type]
    foreground, liver, spleen, _ = chosen.tried
    assert foreground.reason == "does not raise the mean Dice of all labels"
    assert foreground.dice_with == {"liver": 0.55, "spleen": 0.5, "aorta": 0.25}
    assert liver.reason == "does not raise the mean Dice of liver"
    assert spleen.reason == "raises the mean Dice of spleen and lowers none"
    assert (spleen.dice_without["spleen"], spleen.dice_with["spleen"]) == (0.5, 0.625)
    assert spleen.dice_with["liver"] == 0.5
    assert chosen.describe() == "largest part kept of spleen"


def test_a_label_without_a_score_neither_rises_nor_falls() -> None:
    base: Dices = {"liver": None, "spleen": 0.8, "aorta": 0.7}
    chosen = choose_postprocessing(TASK, 3, Measure(base, {"foreground": {"spleen": 0.1, "aorta": None}}))
    assert chosen.keep_largest_foreground
    assert chosen.keep_largest == ()


def test_one_label_is_tried_once() -> None:
    measure = Measure({"liver": 0.9}, {"liver": {"liver": 0.05}})
    chosen = choose_postprocessing(ONE, 3, measure)
    assert chosen.keep_largest == ("liver",)
    assert not chosen.keep_largest_foreground
    assert len(measure.asked) == 2


def test_plain_labels_need_three_looks_however_many_there_are() -> None:
    many = Task.model_validate(TASK.model_dump() | {"labels": {f"l{n}": (n,) for n in range(1, 101)}})
    base: Dices = {f"l{n}": 0.5 for n in range(1, 101)}
    changes: dict[str, dict[str, float | None]] = {f"l{n}": {f"l{n}": (-1) ** n / 100} for n in range(1, 101)}
    measure = Measure(base, changes)
    chosen = choose_postprocessing(many, 3, measure)
    assert chosen.keep_largest == tuple(f"l{n}" for n in range(2, 101, 2))
    assert len(measure.asked) == 3


def test_regions_are_tried_one_on_top_of_the_other_outer_ones_first() -> None:
    base: Dices = {WHOLE: 0.9, CORE: 0.8, ENHANCING: 0.7}
    measure = Measure(
        base,
        {
            WHOLE: {WHOLE: 0.01, CORE: 0.01},
            CORE: {CORE: 0.02, ENHANCING: -0.01},  # helps itself, harms what lies within
            ENHANCING: {ENHANCING: 0.03},
        },
    )
    chosen = choose_postprocessing(REGIONS, 5, measure)
    assert chosen.keep_largest == (WHOLE, ENHANCING)
    assert [asked.keep_largest for asked in measure.asked[2:]] == [(WHOLE,), (WHOLE, CORE), (WHOLE, ENHANCING)]
    reasons = {step.step: step.reason for step in chosen.tried}
    assert reasons[f"label {CORE}"] == f"raises the mean Dice of {CORE}, but lowers that of {ENHANCING}"


def test_without_cases_nothing_is_tried() -> None:
    def fail(_: Postprocessing) -> Dices:
        raise AssertionError

    compute: Callable[[Postprocessing], Dices] = fail
    assert choose_postprocessing(TASK, 0, compute) == Postprocessing()
