"""Progress over the cases of a dataset: a bar in a terminal, nothing elsewhere; loads no torch."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from medunet.cli.terminal import build_console


class CaseProgress:
    """Counts cases from any thread; a context manager, so that the terminal is left clean.

    Args:
        stage: What is done with the cases.
        num_cases: How many there are.
    """

    def __init__(self, stage: str, num_cases: int) -> None:
        # On stderr, since stdout may be JSON for another program.
        self._console = build_console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task(stage, total=num_cases)

    def __enter__(self) -> CaseProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_case(self, case_id: str) -> None:
        """Advance the bar."""
        self._progress.advance(self._bar)
