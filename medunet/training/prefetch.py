"""Batches drawn ahead by threads and given in order.

Threads, not processes: reading, torch and numpy let go of Python's lock, so threads keep several cores busy, and they
need no shared memory (which containers limit), no copies between processes, and cannot be killed one by one. Each computes
with one core; several threads that each used all cores would wait for one another.

A thread that hangs in a read (a network file system that is gone) cannot be ended; it is left alone, and an error says
what it was reading.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from medunet.errors import TrainingError
from medunet.preprocessing.one_core import keeping_cores, use_one_core

T = TypeVar("T")

TIMEOUT_SECONDS = 300.0
_JOIN_SECONDS = 5.0
"""How long a batch that nobody wants any more may still take."""
THREAD_NAME = "medunet-patches"


def draw_ahead(
    draw: Callable[[int], T],
    start: int,
    *,
    num_workers: int,
    describe: Callable[[int], str],
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Generator[T, None, None]:
    """``draw(start)``, ``draw(start + 1)``, ... without end.

    Args:
        draw: A pure function of the number, called from several threads at once.
        start: The first number.
        num_workers: Threads; each has one result ready. 0 draws in the caller's thread, when asked.
        describe: Says what ``draw`` is doing for a number, for the message when it takes too long.
        timeout_seconds: Longest wait for one result.

    Raises:
        TrainingError: If a result does not come in time.
        Exception: What ``draw`` raises, when its number is due.
    """
    if num_workers == 0:
        yield from map(draw, itertools.count(start))
        return
    results: _Results[T] = _Results(start, num_ahead=num_workers + 1)
    threads = _start_threads(draw, results, num_workers)
    try:
        for number in itertools.count(start):
            yield results.take(number, timeout_seconds, describe)
    finally:
        results.stop()
        end = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def _start_threads(draw: Callable[[int], T], results: _Results[T], num_workers: int) -> list[threading.Thread]:
    ready = threading.Barrier(num_workers + 1)

    def work() -> None:
        use_one_core()
        ready.wait()
        while (number := results.claim()) is not None:
            try:
                result: T | BaseException = draw(number)
            except BaseException as error:  # raised in the caller's thread
                result = error
            results.put(number, result)

    # Daemons, so that one that hangs does not keep the program from ending.
    threads = [threading.Thread(target=work, name=THREAD_NAME, daemon=True) for _ in range(num_workers)]
    with keeping_cores():
        for thread in threads:
            thread.start()
        ready.wait()
    return threads


class _Results(Generic[T]):
    """Numbers are given out in order, a few ahead of what is taken; results are taken in the same order."""

    def __init__(self, start: int, *, num_ahead: int) -> None:
        self._changed = threading.Condition()
        self._next = start
        self._limit = start + num_ahead
        self._done: dict[int, T | BaseException] = {}
        self._is_stopped = False

    def claim(self) -> int | None:
        """The next number to draw, as soon as it may be; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._next < self._limit)
            if self._is_stopped:
                return None
            self._next += 1
            return self._next - 1

    def put(self, number: int, result: T | BaseException) -> None:
        with self._changed:
            self._done[number] = result
            self._changed.notify_all()

    def take(self, number: int, timeout_seconds: float, describe: Callable[[int], str]) -> T:
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._done, timeout_seconds):
                msg = (
                    f"No training patches for {timeout_seconds:g} s: {describe(number)}. Is the disk or the network that "
                    "holds the preprocessed cases gone? Go on with --resume when it is back."
                )
                raise TrainingError(msg)
            result = self._done.pop(number)
            self._limit += 1
            self._changed.notify_all()
        if isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._done.clear()
            self._changed.notify_all()
