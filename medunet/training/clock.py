"""When a training reports, saves, looks at validation cases and ends."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from medunet.training.budget import Budget
from medunet.training.state import TrainingState

NUM_VALIDATIONS = 3
VALIDATION_SHARE = 0.05
"""Of a budget in time, that all looks together may take."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be done between two steps.

    Attributes:
        progress: Share of the budget that is used, 0 to 1.
        seconds: In the loop so far, over all sessions.
        report: Whether somebody should be told.
        save: Whether the state should be saved.
        validation: Whether validation cases should be looked at.
        stop: Whether training was asked to stop.
    """

    progress: float = 0.0
    seconds: float = 0.0
    report: bool = False
    save: bool = False
    validation: bool = False
    stop: bool = False


class Clock:
    """Measures a training and says what is due.

    Args:
        budget: Time or iterations.
        state: Whose iterations and earlier seconds count.
        report_seconds: Between two reports.
        save_seconds: Between two saves.
    """

    def __init__(self, budget: Budget, state: TrainingState, *, report_seconds: float, save_seconds: float) -> None:
        self._budget = budget
        self._state = state
        self._report_seconds = report_seconds
        self._save_seconds = save_seconds
        self._began = self._reported_at = self._saved_at = self._measured_at = time.perf_counter()
        self._earlier_seconds = state.seconds
        self._waited = self._waited_at_measure = 0.0
        progress = budget.compute_progress(state.iteration, state.seconds)
        shares = (number / (NUM_VALIDATIONS + 1) for number in range(1, NUM_VALIDATIONS + 1))
        self._validations = [share for share in shares if share > progress]

    def look(self) -> Due:
        """What is due now; what is reported and saved is due again only after its time."""
        now = time.perf_counter()
        seconds = self._earlier_seconds + now - self._began
        progress = self._budget.compute_progress(self._state.iteration, seconds)
        report = now - self._reported_at >= self._report_seconds
        save = now - self._saved_at >= self._save_seconds
        if save:
            self._saved_at = now
        if report:
            self._reported_at = now
        validation = any(share <= progress for share in self._validations)
        self._validations = [share for share in self._validations if share > progress]
        return Due(progress=progress, seconds=seconds, report=report, save=save, validation=validation)

    @property
    def data_wait(self) -> float:
        """Share of this session's time that was spent waiting for patches."""
        return self._waited / max(time.perf_counter() - self._began, 1e-9)

    def measure_data_wait(self) -> float:
        """The same since the last call."""
        now = time.perf_counter()
        share = (self._waited - self._waited_at_measure) / max(now - self._measured_at, 1e-9)
        self._measured_at, self._waited_at_measure = now, self._waited
        return share

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Measures how long the block waits for patches."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def validating(self) -> Generator[None, None, None]:
        """Measures a look at validation cases; where the remaining ones would cost too much, there are no more."""
        began = time.perf_counter()
        yield
        cost = (time.perf_counter() - began) * (len(self._validations) + 1)
        if self._budget.seconds is not None and cost > VALIDATION_SHARE * self._budget.seconds:
            self.give_up_validations()

    def give_up_validations(self) -> None:
        """Validation cases are not due any more."""
        self._validations = []
