"""A command in a process of its own: how long it takes, and how much memory it and its children hold at most."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil

GIB = 2**30
_SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a command.

    Attributes:
        seconds: From its start to its end.
        peak_gib: Most memory that it and its children held at one time. Pages that processes share count once, as far as
            that can be seen: the private memory of all, and the shared memory of the one that has most of it.
        output: All that it printed.
        stopped: Why it was stopped, or how it failed; empty when it ended well.
    """

    seconds: float
    peak_gib: float
    output: str
    stopped: str = ""


def run_watched(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, memory_gib: float, timeout: float = 3600
) -> Outcome:
    """Run a command to its end, or until it needs too much memory or time; then it and its children are killed.

    Args:
        command: Program and arguments.
        environment: Variables beside those of this process.
        memory_gib: Largest memory of it and its children.
        timeout: Seconds that it may take.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        watch = _Watch(process.pid, memory_gib, timeout)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            watch.kill_all()
            process.wait()
            raise
        finally:
            watch.end()
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    stopped = watch.stopped
    if not stopped and process.returncode:
        last = (text.strip().splitlines() or ["it printed nothing"])[-1]
        stopped = f"ended with {process.returncode}: {last[:200]}"
    # The kernel also knows of peaks between two looks, of one process at a time.
    peak_gib = max(watch.peak_gib, usage.ru_maxrss * 1024 / GIB)
    return Outcome(seconds=seconds, peak_gib=peak_gib, output=text, stopped=stopped)


class _Watch:
    """Looks at a process and its children many times per second, from a thread."""

    def __init__(self, pid: int, memory_gib: float, timeout: float) -> None:
        self.peak_gib = 0.0
        self.stopped = ""
        self._process = psutil.Process(pid)
        self._memory_gib = memory_gib
        self._end_time = time.perf_counter() + timeout
        self._timeout = timeout
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def kill_all(self) -> None:
        for process in reversed(list(self._list_processes())):  # children first, so that none is started anew
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _look_on(self) -> None:
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
            gib = self._measure_gib()
            self.peak_gib = max(self.peak_gib, gib)
            if gib > self._memory_gib:
                self.stopped = f"stopped at {gib:.1f} GiB of memory"
            elif time.perf_counter() > self._end_time:
                self.stopped = f"stopped after {self._timeout:.0f} s"
            else:
                continue
            self.kill_all()
            return

    def _measure_gib(self) -> float:
        private, shared = 0, 0
        for process in self._list_processes():
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                part = getattr(memory, "shared", 0)
                private += memory.rss - part
                shared = max(shared, part)
        return (private + shared) / GIB

    def _list_processes(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            yield self._process
            yield from self._process.children(recursive=True)
