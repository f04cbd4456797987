"""What training tells whoever watches; the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainingStart:
    """A network begins to learn, or goes on.

    Attributes:
        folder: Where it is trained, which becomes a model folder.
        resumes: Whether it goes on from a saved state.
        parameters: Settings and plan as one row: path -> number or text, without folders of the machine.
        tags: What it is called by: task, modality, versions.
    """

    folder: Path
    resumes: bool
    parameters: Mapping[str, int | float | bool | str]
    tags: Mapping[str, str]


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
        learning_rate: Of the iteration that follows.
    """

    iteration: int
    loss: float
    dice: float | None
    progress: float
    seconds: float
    seconds_left: float
    data_wait: float = 0.0
    learning_rate: float = 0.0


class Observer:
    """Does nothing; subclass what you want to see."""

    def on_message(self, text: str) -> None:
        """Something worth a line has been decided or begins."""

    def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
        """A case of a stage (``"reading"``, ``"preprocessing"``, ``"validating"``) is finished."""

    def on_training(self, start: TrainingStart) -> None:
        """A network begins to learn; the steps and looks that follow are its own."""

    def on_step(self, step: Step) -> None:
        """Some iterations are finished; called about twice a second."""

    def on_look(self, iteration: int, dice: float) -> None:
        """Mean Dice of a few validation cases after an iteration."""

    def on_model(self, folder: Path) -> None:
        """A model folder is complete: a network with its scores, or an ensemble of several."""


class Observers(Observer):
    """Tells several observers, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def on_message(self, text: str) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_message(text)

    def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_case(stage, case_id, num_done, num_cases)

    def on_training(self, start: TrainingStart) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_training(start)

    def on_step(self, step: Step) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_step(step)

    def on_look(self, iteration: int, dice: float) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_look(iteration, dice)

    def on_model(self, folder: Path) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_model(folder)
