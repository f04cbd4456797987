"""Training as seen in a terminal: a bar per stage; plain lines when the output is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from medunet.cli.durations import format_duration
from medunet.cli.terminal import build_console
from medunet.training import Observer, Step

_PLAIN_SECONDS = 15.0
_WORTH_SAYING = 0.05  # share of the time that the network waits


class ConsoleObserver(Observer):
    """Shows stages and iterations; a context manager, so that the terminal is left clean.

    Args:
        stderr: Whether to write to stderr, because stdout belongs to a document.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.console = build_console(stderr=stderr)
        self._is_terminal = self.console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self._is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._printed_at = 0.0
        self._last_step: Step | None = None

    def __enter__(self) -> ConsoleObserver:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_message(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
        """Advance the bar of a stage."""
        note = f"{num_done} of {num_cases} cases"
        if self._is_terminal:
            self._update(stage, num_done / num_cases, note)
        elif num_done == num_cases:
            self.on_message(f"{stage}: {note}")

    def on_step(self, step: Step) -> None:
        """Advance the bar of the training, or print a line now and then."""
        is_repeated = self._last_step is not None and self._last_step.iteration == step.iteration
        self._last_step = step
        dice = "" if step.dice is None else f"Dice {step.dice:.3f}  "
        note = f"iteration {step.iteration}  loss {step.loss:.3f}  {dice}{format_duration(step.seconds_left)} left"
        if step.data_wait > _WORTH_SAYING:
            note += f"  waits for patches {step.data_wait:.0%} of the time"
        if self._is_terminal:
            self._update("training", step.progress, note)
        elif (step.progress >= 1 and not is_repeated) or time.monotonic() - self._printed_at > _PLAIN_SECONDS:
            self._printed_at = time.monotonic()
            self.on_message(f"training: {step.progress:4.0%}  {note}")

    def describe_where(self) -> str:
        """For the message after Ctrl-C: what is kept."""
        if self._last_step is None:
            return "Training had not begun; preprocessed cases are kept."
        return f"The model of iteration {self._last_step.iteration} is kept."

    def _update(self, stage: str, share: float, note: str) -> None:
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=1.0, note=note)
        self._progress.update(self._bars[stage], completed=share, note=note)
