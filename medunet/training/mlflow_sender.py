"""Sends to an MLflow server from a thread of its own: nobody waits for the server, and a server that is away is tried again."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_SECONDS = 5.0
"""Between two rounds."""
_MOST_SECONDS = 60.0
"""Between two rounds while the server is away."""
_CLOSING_SECONDS = 1.0
"""The same at the end, when somebody waits."""
_MAX_METRICS = 500
"""MLflow takes 1000 numbers at once."""

Call = Callable[[], object]
SendMetrics = Callable[[str, list[Any]], object]


class Sender:
    """A queue of calls and of numbers, in the order in which they were given.

    What fails is kept, and comes after what waits behind it in the next round, so that one call that never succeeds blocks no
    other. The first failure is a warning.

    Args:
        where: The server, for messages.
        send_metrics: Sends numbers of one run.
    """

    def __init__(self, where: str, send_metrics: SendMetrics) -> None:
        self._where = where
        self._send_metrics = send_metrics
        self._calls: deque[Call] = deque()
        self._metrics: dict[str, list[Any]] = {}
        self._lock = threading.Condition()
        self._closes_at: float | None = None
        self._last_error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="medunet-mlflow", daemon=True)
        self._thread.start()

    def put(self, call: Call) -> None:
        """Make a call soon."""
        with self._lock:
            self._calls.append(call)

    def put_metrics(self, name: str, metrics: list[Any]) -> None:
        """Send numbers of a run soon, together with others of it."""
        with self._lock:
            self._metrics.setdefault(name, []).extend(metrics)

    def close(self, seconds: float) -> None:
        """Send what is left, and say what could not be sent.

        Args:
            seconds: For which a server that does not answer is tried again. One that answers gets all the time that it needs.
        """
        with self._lock:
            self._closes_at = time.monotonic() + seconds
            self._lock.notify()
        self._thread.join()
        if num_left := self._count():
            logger.warning(
                "%d entries could not be sent to MLflow at %s (%s). Nothing is lost: the run folder holds the curves in "
                "log.csv, the scores in metrics.json, and the model.",
                num_left,
                self._where,
                describe_error(self._last_error),
            )

    def _run(self) -> None:
        pause = _SECONDS
        while True:
            with self._lock:
                if self._closes_at is None:
                    self._lock.wait(pause)
                closes_at = self._closes_at
            if self._send_all():
                if closes_at is not None and not self._count():
                    return
                pause = _SECONDS
                continue
            pause = min(2 * pause, _MOST_SECONDS)
            if closes_at is not None:
                if time.monotonic() >= closes_at:
                    return
                time.sleep(_CLOSING_SECONDS)

    def _send_all(self) -> bool:
        """One round, up to the first failure."""
        for _ in range(len(self._calls)):
            call = self._calls[0]
            is_done = self._try(call)
            with self._lock:
                self._calls.popleft()
                if not is_done:
                    self._calls.append(call)
            if not is_done:
                return False
        for name in list(self._metrics):
            while batch := self._metrics[name][:_MAX_METRICS]:
                if not self._try(lambda name=name, batch=batch: self._send_metrics(name, batch)):  # type: ignore[misc]
                    return False
                with self._lock:
                    del self._metrics[name][: len(batch)]
        return True

    def _try(self, call: Call) -> bool:
        try:
            call()
        except Exception as error:  # whatever MLflow, requests or a disk raise: training goes on
            if self._last_error is None:
                logger.warning(
                    "MLflow at %s could not be reached (%s). Training goes on; what is missing there is sent later.",
                    self._where,
                    describe_error(error),
                )
            self._last_error = error
            return False
        return True

    def _count(self) -> int:
        return len(self._calls) + sum(map(len, self._metrics.values()))


def describe_error(error: BaseException | None) -> str:
    """One short line; requests puts a whole history into its messages."""
    if error is None:
        return "no reason was given"
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}..."
