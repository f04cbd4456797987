"""`Postprocessing`: what is done to a mask after the network, as the model folder's ``postprocessing.json``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

POSTPROCESSING_VERSION = 1


class TriedStep(BaseModel):
    """One step that was tried on the validation cases, taken or not.

    Attributes:
        step: ``"foreground"`` for all labels as one, or ``"label <name>"``.
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


class Postprocessing(BaseModel):
    """Which structures keep only their largest part.

    Attributes:
        version: Of this format.
        keep_largest_foreground: First, all labels taken as one keep their largest part.
        keep_largest: Then each of these labels or regions keeps its largest part, in this order.
        num_cases: Validation cases that decided; 0 when nothing was tried.
        tried: What was tried, in order.

    The default does nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = POSTPROCESSING_VERSION
    keep_largest_foreground: bool = False
    keep_largest: tuple[str, ...] = ()
    num_cases: int = 0
    tried: tuple[TriedStep, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Whether every mask stays as it is."""
        return not self.keep_largest_foreground and not self.keep_largest

    def describe(self) -> str:
        """One phrase for people.

        Example:
            >>> Postprocessing(keep_largest=("liver", "spleen")).describe()
            'largest part kept of liver, spleen'
        """
        kept = [*(["all labels as one"] if self.keep_largest_foreground else []), *self.keep_largest]
        return f"largest part kept of {', '.join(kept)}" if kept else "none"
