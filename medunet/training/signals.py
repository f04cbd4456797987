"""Signals that ask a training to stop: it finishes its step, saves its state and ends, so that nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
"""What batch systems and containers send before they kill, SLURM's usual warning (``--signal=USR1@120``), and Ctrl-C."""


class StopSignals:
    """While it is entered, SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) are noted instead of ending the process.

    A Ctrl-C while a stop is pending raises `KeyboardInterrupt` at once. The handlers of before are restored at the end.
    Processes that are forked meanwhile end on SIGTERM as usual, and leave the other two to their parent.

    Python delivers signals to the main thread only: entered in another thread this changes nothing, and `should_stop`
    always says None.

    Example:
        >>> with StopSignals() as signals:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     signals.should_stop()
        'SIGTERM'
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    number = signal.Signals[name]
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not set from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def should_stop(self) -> str | None:
        """Name of the first signal that came in, such as ``"SIGTERM"``; None while there was none."""
        return self._reason

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            _act_as_child(number)
        elif number == signal.SIGINT and self._reason is not None:
            raise KeyboardInterrupt
        elif self._reason is None:
            self._reason = signal.Signals(number).name


def _act_as_child(number: int) -> None:
    """A worker that was forked with these handlers must still end when it is told to (`Process.terminate`)."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
