"""Which steps beside keeping the largest part help, found by a short greedy search over a list of candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from medunet.models.postprocessing import LabelStep, Postprocessing, TriedStep
from medunet.tasks import Closing, FillHoles, MaskStep, OnePerSide, Opening, RemoveSmall, Smooth, Task

CaseDices = Mapping[str, Mapping[str, float | None]]
"""Label -> case -> Dice; None where neither side has the label."""

CANDIDATES: Final[tuple[MaskStep, ...]] = (
    OnePerSide(),
    FillHoles(),
    *(RemoveSmall(ml=ml) for ml in (0.03, 0.1, 0.3, 1.0)),
    *(Smooth(mm=mm) for mm in (0.5, 1.0)),
    *(Opening(mm=mm) for mm in (1.0, 2.0)),
    *(Closing(mm=mm) for mm in (1.0, 2.0)),
    FillHoles(plane="axial"),
)
"""In the order in which they are tried; one-per-side for paired labels only."""

MIN_GAIN: Final = 0.002
"""Of the mean Dice of a label, for a step to be taken."""
MIN_CASES: Final = 5
"""With a score of the label; a gain on fewer is more likely luck."""
SEARCH_SECONDS: Final = 30.0
_MAX_STEPS: Final = 2  # per label; each further one is chosen on the same cases
_BOTH_EMPTY: Final = 1.0  # a case where neither side has the label is as good as it can be


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    """One candidate for one label.

    Attributes:
        step: Which.
        before: Mean Dice without it.
        after: With it.
        fault: Why it is not taken; empty where it may be.
        is_lost: Whether a case falls to 0.
        num_up: Cases whose Dice rises.
        num_down: Cases whose Dice falls.
    """

    step: MaskStep
    before: float
    after: float
    fault: str
    is_lost: bool
    num_up: int
    num_down: int

    @property
    def gain(self) -> float:
        return self.after - self.before


def choose_steps(
    task: Task,
    chosen: Postprocessing,
    compute_dices: Callable[[Postprocessing], CaseDices],
    *,
    seconds: float = SEARCH_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Postprocessing:
    """Add the steps that help, and none that harms.

    For every label the best candidate is taken, if it raises the label's mean Dice by `MIN_GAIN` over at least `MIN_CASES`
    cases, more cases rise than fall, and none is lost (to a Dice of 0). Then the next, on top. What was taken for several
    labels is measured together, and dropped for those that fall then. Labels whose steps the task names are left alone.

    Args:
        task: The labels to try.
        chosen: What is done before; its ``num_cases`` decide.
        compute_dices: Dice per label and case with a post-processing. Labels without common voxels are tried all at once,
            regions one after the other.
        seconds: When they are over, no further candidate is tried, and ``is_search_complete`` says so.
        clock: Seconds that rise.

    Returns:
        ``chosen`` with more steps, and with the best candidate of each label among what was tried.
    """
    names = [name for name in task.labels if name not in task.postprocessing]
    if chosen.num_cases < MIN_CASES or not names:
        return chosen
    limit = clock() + seconds
    groups = [[name] for name, _ in task.compute_region_values() if name in names] if task.has_regions else [names]
    current = compute_dices(chosen)
    for group in groups:
        for _ in range(_MAX_STEPS):
            best: dict[str, _Judgement] = {}
            for step, targets in _list_candidates(task, group, chosen):
                if clock() >= limit:
                    chosen = chosen.model_copy(update={"is_search_complete": False})
                    break
                changed = compute_dices(_add(chosen, dict.fromkeys(targets, step)))
                for name in targets:
                    judgement = _judge(step, current[name], changed[name])
                    if name not in best or _rank(judgement) > _rank(best[name]):
                        best[name] = judgement
            best = {name: best[name] for name in group if name in best}
            taken = {name: judgement.step for name, judgement in best.items() if not judgement.fault}
            taken, changed = _verify(task, chosen, current, taken, compute_dices)
            tried = [_describe(name, judgement, is_used=name in taken) for name, judgement in best.items()]
            chosen = _add(chosen, taken).model_copy(update={"tried": (*chosen.tried, *tried)})
            current = changed
            if not taken or not chosen.is_search_complete:
                break
    return chosen


def _list_candidates(task: Task, group: Sequence[str], chosen: Postprocessing) -> Iterator[tuple[MaskStep, list[str]]]:
    """Candidates, each with the labels that it is tried for."""
    paired = {name for pair in task.laterality for name in pair if not task.has_regions}
    taken = {(step.label, step.step) for step in chosen.steps}
    for step in CANDIDATES:
        targets = [name for name in group if (name, step) not in taken]
        if isinstance(step, OnePerSide):
            targets = [name for name in targets if name in paired]
        if targets:
            yield step, targets


def _judge(step: MaskStep, before: Mapping[str, float | None], after: Mapping[str, float | None]) -> _Judgement:
    pairs = [
        tuple(_BOTH_EMPTY if dice is None else dice for dice in (before[case], after[case]))
        for case in before
        if before[case] is not None or after[case] is not None
    ]
    means = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)] if pairs else [0.0, 0.0]
    num_up = sum(new > old for old, new in pairs)
    num_down = sum(new < old for old, new in pairs)
    is_lost = any(old > 0 and new == 0 for old, new in pairs)
    if len(pairs) < MIN_CASES:
        fault = f"there are {len(pairs)} cases; {MIN_CASES} are needed"
    elif means[1] - means[0] < MIN_GAIN:
        fault = f"the gain is below {MIN_GAIN:g}"
    elif is_lost:
        fault = "a case is lost"
    elif num_up <= num_down:
        fault = f"{num_down} cases fall and {num_up} rise"
    else:
        fault = ""
    return _Judgement(
        step=step, before=means[0], after=means[1], fault=fault, is_lost=is_lost, num_up=num_up, num_down=num_down
    )


def _rank(judgement: _Judgement) -> tuple[bool, float]:
    return not judgement.fault, judgement.gain


def _verify(
    task: Task,
    chosen: Postprocessing,
    current: CaseDices,
    taken: dict[str, MaskStep],
    compute_dices: Callable[[Postprocessing], CaseDices],
) -> tuple[dict[str, MaskStep], CaseDices]:
    """What remains of the steps when all are taken together, and the Dice with them.

    Labels that fall, be it by the step of another, lose theirs; where some still fall then, nothing is taken.
    """
    for _ in range(2):
        if not taken:
            return {}, current
        changed = compute_dices(_add(chosen, taken))
        fallen = [name for name in task.labels if _has_fallen(current[name], changed[name])]
        if not fallen:
            return taken, changed
        taken = {name: step for name, step in taken.items() if name not in fallen}
    return {}, current


def _has_fallen(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> bool:
    judgement = _judge(FillHoles(), before, after)
    return judgement.gain < 0 or judgement.is_lost


def _add(chosen: Postprocessing, steps: Mapping[str, MaskStep]) -> Postprocessing:
    added = [LabelStep(label=name, step=step) for name, step in steps.items()]
    return chosen.model_copy(update={"steps": (*chosen.steps, *added)})


def _describe(name: str, judgement: _Judgement, *, is_used: bool) -> TriedStep:
    cases = f"{judgement.num_up} cases rise, {judgement.num_down} fall"
    fault = judgement.fault or ("" if is_used else "together with the steps of other labels, one falls")
    return TriedStep(
        step=LabelStep(label=name, step=judgement.step).describe(),
        is_used=is_used,
        reason=f"{'the best' if is_used else f'the best, but {fault}'}: {judgement.gain:+.4f}, {cases}",
        dice_without={name: judgement.before},
        dice_with={name: judgement.after},
    )
