"""`Postprocessing`: what is done to a mask after the network, as the model folder's ``postprocessing.json``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from medunet.tasks import StepField, Task, describe_step

POSTPROCESSING_VERSION = 2


class TriedStep(BaseModel):
    """One step that was tried on the validation cases, taken or not.

    Attributes:
        step: That the largest part is kept: ``"foreground"`` of all labels as one, ``"label <name>"`` of one; for other
            steps ``"<name>: <step>"``.
        is_used: Whether it is part of the post-processing.
        reason: Why, with the label that decided.
        dice_without: Label -> mean Dice over the validation cases before the step; None where the label has no score.
        dice_with: The same after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    is_used: bool
    reason: str
    dice_without: dict[str, float | None]
    dice_with: dict[str, float | None]


class LabelStep(BaseModel):
    """One step of one label.

    Attributes:
        label: Name of the label or region; of a paired organ either of the two.
        step: What is done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    step: StepField

    def describe(self) -> str:
        """One phrase for people.

        Example:
            >>> LabelStep(label="liver", step={"remove-small": {"ml": 0.5}}).describe()
            'liver: remove-small:ml=0.5'
        """
        return f"{self.label}: {describe_step(self.step)}"


class Postprocessing(BaseModel):
    """What is done to the masks of a model, in this order.

    Attributes:
        version: Of this format; files of version 1 have no ``steps``.
        keep_largest_foreground: First, all labels taken as one keep their largest part.
        keep_largest: Then each of these labels or regions keeps its largest part, in this order.
        steps: Then these, in this order: those of the task, and those that were found to help.
        num_cases: Validation cases that decided; 0 when nothing was tried.
        is_search_complete: Whether there was time to try all that could have been tried.
        tried: What was tried, in order.

    The default does nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = POSTPROCESSING_VERSION
    keep_largest_foreground: bool = False
    keep_largest: tuple[str, ...] = ()
    steps: tuple[LabelStep, ...] = ()
    num_cases: int = 0
    is_search_complete: bool = True
    tried: tuple[TriedStep, ...] = ()

    @classmethod
    def of_task(cls, task: Task) -> Postprocessing:
        """What the task asks for, whatever validation finds."""
        return cls(
            steps=tuple(
                LabelStep(label=name, step=step) for name, steps in task.postprocessing.items() for step in steps
            )
        )

    @property
    def does_nothing(self) -> bool:
        """Whether every mask stays as it is."""
        return not self.keep_largest_foreground and not self.keep_largest and not self.steps

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that are named, each once."""
        return tuple(dict.fromkeys([*self.keep_largest, *(step.label for step in self.steps)]))

    def describe(self) -> str:
        """One phrase for people.

        Example:
            >>> Postprocessing(keep_largest=("liver", "spleen")).describe()
            'largest part kept of liver, spleen'
        """
        kept = [*(["all labels as one"] if self.keep_largest_foreground else []), *self.keep_largest]
        phrases = [f"largest part kept of {', '.join(kept)}"] if kept else []
        return "; ".join([*phrases, *(step.describe() for step in self.steps)]) or "none"
