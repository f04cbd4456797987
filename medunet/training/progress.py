"""What training tells whoever watches; the library itself prints nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished iteration.

    Attributes:
        iteration: Its number, from 1.
        loss: Running mean of the loss.
        dice: Running mean of the soft Dice on training patches; None where nothing is segmented.
        progress: Share of the budget that is used.
        seconds: In the loop so far.
        seconds_left: Until the budget is used up, by the present speed.
        data_wait: Share of the time since the last report that was spent waiting for patches.
    """

    iteration: int
    loss: float
    dice: float | None
    progress: float
    seconds: float
    seconds_left: float
    data_wait: float = 0.0


class Observer:
    """Does nothing; subclass what you want to see."""

    def on_message(self, text: str) -> None:
        """Something worth a line has been decided or begins."""

    def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
        """A case of a stage (``"reading"``, ``"preprocessing"``, ``"validating"``) is finished."""

    def on_step(self, step: Step) -> None:
        """Some iterations are finished; called about twice a second."""
