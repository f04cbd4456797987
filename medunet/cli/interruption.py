"""The end of a training that was interrupted: what is kept, and how to go on."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from medunet.errors import TrainingError, TrainingStoppedError

if TYPE_CHECKING:
    from medunet.cli.progress import ConsoleObserver

EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, start the same command again."""


@contextmanager
def explaining_interruption(observer: ConsoleObserver, how_to_go_on: str) -> Generator[None, None, None]:
    """Within it, Ctrl-C and signals end the command with one line; what warns of a time limit, with an exit code for schedulers.

    Args:
        observer: Knows how far the training got.
        how_to_go_on: A sentence for the user.

    Raises:
        TrainingError: After Ctrl-C.
        typer.Exit: With `EXIT_REQUEUE` after other signals.
    """
    try:
        yield
    except (TrainingStoppedError, KeyboardInterrupt) as stop:
        reason = "Interrupted" if isinstance(stop, KeyboardInterrupt) else f"Stopped ({stop.reason})"
        msg = f"{reason}. {observer.describe_where()} {how_to_go_on}"
        if isinstance(stop, TrainingStoppedError) and stop.reason != "SIGINT":
            print(f"error: {msg}", file=sys.stderr)
            raise typer.Exit(EXIT_REQUEUE) from stop
        raise TrainingError(msg) from stop
