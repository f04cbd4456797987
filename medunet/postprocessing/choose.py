"""Which post-processing helps, decided by the Dice of masks that the network made of cases it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from medunet.models.postprocessing import Postprocessing, TriedStep
from medunet.tasks import Task

MeanDices = Mapping[str, float | None]
"""Label -> mean Dice over the cases; None where the label has no score."""


def choose_postprocessing(
    task: Task, num_cases: int, compute_mean_dices: Callable[[Postprocessing], MeanDices]
) -> Postprocessing:
    """Take the steps that help, and none that harms (the rule of nnU-Net, https://doi.org/10.1038/s41592-020-01008-z).

    First all labels as one keep their largest part, if that raises the mean over labels. Then each label keeps its own,
    if that raises the label's mean Dice. A step after which the mean Dice of any label falls is not taken. Each step is
    measured on top of those taken before it. No voxel is touched here; memory is the caller's.

    Args:
        task: The labels to try.
        num_cases: That decide; with none, nothing is tried. The steps that the task names are taken anyway; its labels that
            have some are not tried.
        compute_mean_dices: Mean Dice per label over all cases with a post-processing. Called at most 3 times for plain
            labels, which cannot change each other, and once per step for regions.

    Returns:
        The post-processing, with everything that was tried.
    """
    chosen = Postprocessing.of_task(task).model_copy(update={"num_cases": num_cases})
    names = [name for name in task.labels if name not in task.postprocessing]
    if num_cases == 0 or not names:
        return chosen
    current = compute_mean_dices(chosen)
    if len(task.labels) > 1 and not task.postprocessing:  # the foreground of one label is that label
        candidate = chosen.model_copy(update={"keep_largest_foreground": True})
        changed = compute_mean_dices(candidate)
        rises = _mean_change(current, changed) > 0
        step = _judge("foreground", "all labels", current, changed, rises=rises)
        chosen = (candidate if step.is_used else chosen).model_copy(update={"tried": (step,)})
        current = changed if step.is_used else current
    return (
        _choose_regions(task, chosen, current, compute_mean_dices)
        if task.has_regions
        else _choose_labels(task, chosen, current, compute_mean_dices)
    )


def _choose_labels(
    task: Task, chosen: Postprocessing, current: MeanDices, compute: Callable[[Postprocessing], MeanDices]
) -> Postprocessing:
    """Labels without common voxels: what one loses is no other's, so one measurement decides for all."""
    names = [name for name in task.labels if name not in task.postprocessing]
    changed = compute(chosen.model_copy(update={"keep_largest": tuple(names)}))
    for name in names:
        alone = {**current, name: changed[name]}
        step = _judge(f"label {name}", name, current, alone, rises=_rises(current[name], changed[name]))
        kept = (*chosen.keep_largest, name) if step.is_used else chosen.keep_largest
        chosen = chosen.model_copy(update={"keep_largest": kept, "tried": (*chosen.tried, step)})
    return chosen


def _choose_regions(
    task: Task, chosen: Postprocessing, current: MeanDices, compute: Callable[[Postprocessing], MeanDices]
) -> Postprocessing:
    """Regions within each other: outer ones first, because what leaves them leaves the inner ones too."""
    for name, _ in task.compute_region_values():
        if name in task.postprocessing:
            continue
        candidate = chosen.model_copy(update={"keep_largest": (*chosen.keep_largest, name)})
        changed = compute(candidate)
        step = _judge(f"label {name}", name, current, changed, rises=_rises(current[name], changed[name]))
        chosen = (candidate if step.is_used else chosen).model_copy(update={"tried": (*chosen.tried, step)})
        current = changed if step.is_used else current
    return chosen


def _judge(step: str, what: str, before: MeanDices, after: MeanDices, *, rises: bool) -> TriedStep:
    fallen = next((name for name in before if _rises(after[name], before[name])), None)
    if not rises:
        reason = f"does not raise the mean Dice of {what}"
    elif fallen is not None:
        reason = f"raises the mean Dice of {what}, but lowers that of {fallen}"
    else:
        reason = f"raises the mean Dice of {what} and lowers none"
    return TriedStep(
        step=step,
        is_used=rises and fallen is None,
        reason=reason,
        dice_without=dict(before),
        dice_with=dict(after),
    )


def _rises(before: float | None, after: float | None) -> bool:
    """A label without a score on one side can neither rise nor fall."""
    return before is not None and after is not None and after > before


def _mean_change(before: MeanDices, after: MeanDices) -> float:
    changes = [after[name] - dice for name, dice in before.items() if dice is not None and after[name] is not None]  # type: ignore[operator]
    return sum(changes) / len(changes) if changes else 0.0
