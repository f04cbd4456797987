"""The search takes what helps on enough cases, loses none, and stops when its time is over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medunet.models import LabelStep
from medunet.postprocessing import Postprocessing, choose_postprocessing, choose_steps
from medunet.postprocessing.choose_steps import CANDIDATES, MIN_GAIN
from medunet.tasks import FillHoles, OnePerSide, Task, describe_step, load_task, parse_step

TASK = Task(
    name="organs-ct",
    title="Organs",
    modality="CT",
    channels=("ct",),
    labels={"liver": (1,), "kidney_left": (2,), "kidney_right": (3,)},  # type: ignore[arg-type]
    laterality=(("kidney_left", "kidney_right"),),
    intensity="none",
)
BASE = 0.5
Effect = Callable[[str, int, set[str]], float | None]


class Measure:
    """Dice of seven cases: a base, and what an effect adds."""

    def __init__(self, task: Task, effect: Effect, num_cases: int = 7) -> None:
        self.task, self.effect, self.num_cases = task, effect, num_cases
        self.asked: list[Postprocessing] = []

    def __call__(self, postprocessing: Postprocessing) -> dict[str, dict[str, float | None]]:
        self.asked.append(postprocessing)
        taken = {step.describe() for step in postprocessing.steps}
        return {
            label: {f"p{case}": self.effect(label, case, taken) for case in range(self.num_cases)}
            for label in self.task.labels
        }


def choose(effect: Effect, task: Task = TASK, num_cases: int = 7, **options: object) -> Postprocessing:
    measure = Measure(task, effect, num_cases)
    return choose_steps(task, Postprocessing(num_cases=num_cases), measure, **options)  # type: ignore[arg-type]


def list_steps(chosen: Postprocessing) -> list[str]:
    return [step.describe() for step in chosen.steps]


def test_every_label_gets_its_best_step_and_then_the_next() -> None:
    gains = {
        "liver: fill-holes": 0.01,
        "liver: smooth:mm=1": 0.03,
        "liver: closing:mm=2": 0.005,
        "kidney_left: opening:mm=1": 0.02,
        "kidney_right: opening:mm=1": -0.01,
    }
    chosen = choose(lambda label, _, taken: BASE + sum(gains.get(s, 0) for s in taken if s.startswith(label)))
    assert list_steps(chosen) == ["liver: smooth:mm=1", "kidney_left: opening:mm=1", "liver: fill-holes"]
    assert chosen.is_search_complete
    used = [step for step in chosen.tried if step.is_used]
    assert [step.step for step in used] == list_steps(chosen)
    assert used[0].reason == "the best: +0.0300, 7 cases rise, 0 fall"
    assert (used[0].dice_without, used[0].dice_with) == ({"liver": 0.5}, {"liver": pytest.approx(0.53)})
    unused = [step for step in chosen.tried if not step.is_used and "kidney_right" in step.step]
    assert "but the gain is below 0.002" in unused[0].reason


@pytest.mark.parametrize(
    ("gain_of_case", "is_taken", "reason"),
    [
        (lambda case: 0.01, True, ""),
        (lambda case: MIN_GAIN * 0.9, False, "the gain is below"),
        (lambda case: 0.3 if case else -BASE, False, "a case is lost"),
        (lambda case: 0.3 if case < 3 else -0.001, False, "4 cases fall and 3 rise"),
        (lambda case: 0.3 if case < 4 else -0.001, True, ""),
    ],
)
def test_what_a_step_must_do_to_be_taken(gain_of_case: Callable[[int], float], is_taken: bool, reason: str) -> None:
    def effect(label: str, case: int, taken: set[str]) -> float:
        return BASE + (gain_of_case(case) if f"{label}: fill-holes" in taken and label == "liver" else 0.0)

    chosen = choose(effect)
    assert list_steps(chosen) == (["liver: fill-holes"] if is_taken else [])
    if reason:
        tried = next(step for step in chosen.tried if step.step == "liver: fill-holes")
        assert reason in tried.reason


def test_an_invented_label_that_goes_is_a_gain_and_one_that_comes_a_loss() -> None:
    def effect(label: str, case: int, taken: set[str]) -> float | None:
        if label != "liver":
            return BASE
        if "liver: remove-small:ml=0.1" in taken:
            return None if case == 0 else BASE
        return 0.0 if case == 0 else BASE

    assert list_steps(choose(effect)) == ["liver: remove-small:ml=0.1"]


def test_few_cases_decide_nothing() -> None:
    measure = Measure(TASK, lambda *_: 1.0, 4)
    before = Postprocessing(num_cases=4)
    assert choose_steps(TASK, before, measure) is before
    assert measure.asked == []


@pytest.mark.parametrize("harm", [0.0, 0.15])
def test_a_step_that_harms_another_label_is_dropped(harm: float) -> None:
    def effect(label: str, _: int, taken: set[str]) -> float:
        gain = 0.1 if label == "liver" and "liver: closing:mm=2" in taken else 0.0
        return BASE + gain - (harm if label == "kidney_left" and "liver: closing:mm=2" in taken else 0.0)

    chosen = choose(effect)
    found = next(step for step in chosen.tried if step.step == "liver: closing:mm=2")
    assert found.is_used == (harm == 0)
    assert list_steps(chosen) == ([] if harm else ["liver: closing:mm=2"])
    assert ("together with the steps of other labels, one falls" in found.reason) == (harm > 0)


def test_time_that_is_over_ends_the_search_and_is_told() -> None:
    ticks = iter(range(1000))
    chosen = choose(lambda *_: BASE, seconds=3, clock=lambda: float(next(ticks)))
    assert not chosen.is_search_complete
    assert {step.step.split(": ")[1] for step in chosen.tried} <= {describe_step(step) for step in CANDIDATES[:3]}


def test_one_measurement_serves_all_plain_labels_and_pairs_only_are_sorted() -> None:
    measure = Measure(TASK, lambda *_: BASE)
    choose_steps(TASK, Postprocessing(num_cases=7), measure)
    assert len(measure.asked) == 1 + len(CANDIDATES)
    sorted_labels = {s.label for asked in measure.asked for s in asked.steps if isinstance(s.step, OnePerSide)}
    assert sorted_labels == {"kidney_left", "kidney_right"}


def test_regions_are_tried_one_by_one() -> None:
    task = load_task("brain-tumour-mr")
    measure = Measure(task, lambda *_: BASE)
    chosen = choose_steps(task, Postprocessing(num_cases=7), measure)
    assert all(len({step.label for step in asked.steps}) <= 1 for asked in measure.asked)
    assert not chosen.steps


def test_labels_of_the_task_are_left_to_it() -> None:
    task = Task.model_validate(TASK.model_dump() | {"postprocessing": {"liver": ["fill-holes"]}})
    chosen = choose_postprocessing(task, 7, lambda _: dict.fromkeys(task.labels, 0.5))
    assert chosen.steps == (LabelStep(label="liver", step=FillHoles()),)
    assert [step.step for step in chosen.tried] == ["label kidney_left", "label kidney_right"]
    measure = Measure(task, lambda *_: BASE)
    found = choose_steps(task, chosen, measure)
    assert found.steps == chosen.steps
    assert all(s.label != "liver" for asked in measure.asked for s in asked.steps[1:])
    assert all(parse_step("fill-holes") == asked.steps[0].step for asked in measure.asked)
    everything = Task.model_validate(TASK.model_dump() | {"postprocessing": dict.fromkeys(TASK.labels, "fill-holes")})
    assert len(choose_postprocessing(everything, 7, lambda _: {}).steps) == 3
