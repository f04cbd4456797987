"""All that a model's post-processing does to a mask."""

from __future__ import annotations

from dataclasses import dataclass

from medunet.models.postprocessing import Postprocessing
from medunet.postprocessing.apply_steps import StepEffect, apply_steps
from medunet.postprocessing.keep_largest import keep_largest
from medunet.postprocessing.label_rules import build_task_rules
from medunet.tasks import Task
from medunet.volume import Volume


@dataclass(frozen=True, kw_only=True)
class PostprocessedLabels:
    """A mask after post-processing.

    Attributes:
        labels: ``(1, I, J, K)``, grid and dtype as before.
        effects: What each of the steps did; keeping the largest part by ``keep_largest`` is none of them.
    """

    labels: Volume
    effects: tuple[StepEffect, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a person should know: steps that were skipped, and labels of which nothing is left."""
        return [effect.describe() for effect in self.effects if effect.note]


def postprocess_labels(label_map: Volume, task: Task, postprocessing: Postprocessing) -> PostprocessedLabels:
    """Do to a mask what a model's post-processing says, in its order.

    Args:
        label_map: ``(1, I, J, K)`` with the values of the task.
        task: Gives the values of every label, and the pairs of left and right.
        postprocessing: What to do.

    Returns:
        The mask, ``label_map`` itself where nothing changed, and what was done.

    Raises:
        ValueError: If the post-processing names a label that the task does not have.
    """
    if unknown := [name for name in postprocessing.label_names if name not in task.labels]:
        msg = f"The post-processing names '{unknown[0]}'; the labels of task '{task.name}' are {list(task.labels)}."
        raise ValueError(msg)
    labels = keep_largest(label_map, task, postprocessing)
    if not postprocessing.steps:
        return PostprocessedLabels(labels=labels)
    labels, effects = apply_steps(labels, build_task_rules(task), postprocessing.steps, task.laterality)
    return PostprocessedLabels(labels=labels, effects=effects)


def apply_postprocessing(label_map: Volume, task: Task, postprocessing: Postprocessing) -> Volume:
    """`postprocess_labels` without a word about what was done."""
    return postprocess_labels(label_map, task, postprocessing).labels
