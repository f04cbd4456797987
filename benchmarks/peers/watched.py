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
from pathlib import Path

import psutil

GIB = 2**30
_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_OF_BIRTH = 0.2
_PAUSE = 20
"""Times as long as a look took, so that looking takes no more than a twentieth of a core."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a command.

    Attributes:
        seconds: From its start to its end.
        peak_gib: Most memory that it and its children held at one time; pages that processes share count once (PSS).
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
            process.wait()
        except BaseException:
            watch.kill_all()
            process.wait()
            raise
        finally:
            watch.end()
        seconds = time.perf_counter() - began
        output.seek(0)
        text = output.read()
    stopped = watch.stopped
    if not stopped and process.returncode:
        last = (text.strip().splitlines() or ["it printed nothing"])[-1]
        stopped = f"ended with {process.returncode}: {last[:200]}"
    return Outcome(seconds=seconds, peak_gib=watch.peak_gib, output=text, stopped=stopped)


class _Watch:
    """Looks at a process and its children many times per second, from a thread."""

    def __init__(self, pid: int, memory_gib: float, timeout: float) -> None:
        self.peak_gib = 0.0
        self.stopped = ""
        self._process = psutil.Process(pid)
        self._memory_gib = memory_gib
        self._end_time = time.perf_counter() + timeout
        self._timeout = timeout
        self._first_seen: dict[int, float] = {}
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
        cost = 0.0
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS + _PAUSE * cost):
            began = time.perf_counter()
            gib = self._measure_gib()
            cost = time.perf_counter() - began
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
        processes = list(self._list_processes())
        total, largest = 0, 0
        for process in processes:
            with contextlib.suppress(psutil.Error, OSError):
                now = time.perf_counter()
                seen = self._first_seen.setdefault(process.pid, now)
                # A new process seems to hold the memory of its parent until it begins its own program.
                if process.pid != self._process.pid and now - seen < _SECONDS_OF_BIRTH:
                    continue
                # Pages that forked processes share are told apart by the slower way only.
                memory = process.memory_full_info() if len(processes) > 1 else process.memory_info()
                total += getattr(memory, "pss", 0) or memory.rss
                largest = max(largest, _read_peak(process.pid))
        return max(total, largest) / GIB

    def _list_processes(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            yield self._process
            yield from self._process.children(recursive=True)


def _read_peak(pid: int) -> int:
    """Most bytes that a process has held, between two looks included; 0 where the system does not say.

    `resource.getrusage` would count what held the process before it began its own program: this one.
    """
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
