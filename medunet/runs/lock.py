"""One run per folder: two that write the same files would leave a mixture of both."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medunet.errors import OutputError
from medunet.io import describe_write_error
from medunet.models.names import LOG, STATE_FOLDER

if sys.platform != "win32":
    import fcntl

LOCK_FILE = "run.lock"
_SILENT_SECONDS = 900.0
"""Longer than a training is silent: it saves every five minutes, and writes a row twice a second."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_Answer = Literal["free", "taken", "unknown"]

_held: set[int] = set()
"""Open lock files of this process; a forked worker closes them, or it would hold the lock after its parent was killed."""


class Holder(BaseModel):
    """Who holds a run folder, as its lock file says.

    Attributes:
        host: Name of the machine.
        boot: Identity of the running kernel, the same in all containers on it; empty where unknown.
        process: Its number.
        started: When it took the lock, ISO with the time zone.
        job: SLURM's job, which keeps its number when it is requeued; empty outside SLURM.
        restarts: How often SLURM had requeued that job.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    boot: str = ""
    process: int
    started: str
    job: str = ""
    restarts: int = 0


class RunLock:
    """Holds a run folder for one process; a second one is refused.

    The lock is the kernel's (``flock``) and ends with the process, however that ends: what a killed run left behind is
    taken over on the same machine, and by the same SLURM job after a requeue. On shared disks whose locks do not reach
    other machines, and where there is no ``flock`` (Windows), the content of the file decides: it names its holder, and a
    person has to say that it is gone by deleting it.

    Of several processes that learn together, only the first takes it.

    Args:
        folder: The run folder; made when missing, and removed again when it stayed empty.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file: int | None = None
        self._made: list[Path] = []

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            OutputError: If another run holds the folder, or it cannot be written.
        """
        try:
            self._made = _make_folder(self._path.parent)
            self._file = self._open_locked()
            _write(self._file, _describe_self())
        except OutputError:
            self._release()
            raise
        except OSError as error:
            self._release()
            raise describe_write_error(self._path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release()

    def _open_locked(self) -> int:
        """The open lock file, which is this process's from here on."""
        while True:
            file, is_new = _open(self._path)
            try:
                answer = _ask_kernel(file)
                holder = _read(file)
                if answer == "free" and not _is_same_file(file, self._path):
                    os.close(file)  # its holder finished, and removed it, between the opening and the locking
                    continue
                if answer == "taken" or not (is_new or _is_gone(holder, answer)):
                    raise OutputError(self._describe_refusal(holder))
            except BaseException:
                os.close(file)
                raise
            _held.add(file)
            return file

    def _release(self) -> None:
        if self._file is not None:
            if self._file not in _held:
                return  # a forked worker, which holds nothing
            _held.discard(self._file)
            _remove(self._file, self._path)
            self._file = None
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()
        self._made = []

    def _describe_refusal(self, holder: Holder | None) -> str:
        who = "another process"
        if holder is not None:
            who = f"process {holder.process} on {holder.host} since {holder.started}"
        remedy = "Wait for it, or choose another --output."
        if holder is None or not _is_this_machine(holder) or sys.platform == "win32":
            remedy = f"Wait for it, or choose another --output; if that process no longer runs, delete {self._path}."
        return f"{self._path.parent} is being written by {who}. {remedy}"


def find_holder(folder: Path) -> Holder | None:
    """Who is writing a run folder; None where nobody is.

    Nothing is locked to find out: asking the kernel would take the lock for a moment, in which a training that starts would
    be refused. On this machine it is known whether the process lives. A process elsewhere counts as living while its
    folder changes, for `_SILENT_SECONDS`.

    Args:
        folder: Of a run.
    """
    path = folder / LOCK_FILE
    try:
        with path.open("rb") as file:
            holder = _parse(file.read(4096))
    except OSError:
        return None
    if holder is None:
        return None
    if holder.host == platform.node():
        was_restarted = bool(holder.boot) and holder.boot != _read_boot_id()
        return holder if not was_restarted and _is_same_process(holder) else None
    return holder if time.time() - _find_last_change(folder) < _SILENT_SECONDS else None


def _is_same_process(holder: Holder) -> bool:
    """Whether the process that took the lock lives: its number may have gone to another one since."""
    import psutil

    try:
        began = psutil.Process(holder.process).create_time()
        took = datetime.datetime.fromisoformat(holder.started).timestamp()
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, ValueError):
        return True
    return began <= took + 1  # the file says whole seconds


def _find_last_change(folder: Path) -> float:
    """Of what a training writes all the time, in seconds since the epoch; 0 for none of it."""
    found = [0.0]
    for pattern in (LOCK_FILE, LOG, f"*/{LOG}", f"*/*/{LOG}", f"{STATE_FOLDER}/*"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):  # it may be replaced at this moment
                found.append(path.stat().st_mtime)
    return max(found)


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and its parents; those that were missing, deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _describe_self() -> Holder:
    return Holder(
        host=platform.node(),
        boot=_read_boot_id(),
        process=os.getpid(),
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restarts=_count_restarts(),
    )


def _count_restarts() -> int:
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else 0


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_this_machine(holder: Holder) -> bool:
    boot = _read_boot_id()
    return holder.host == platform.node() or (bool(boot) and holder.boot == boot)


def _is_gone(holder: Holder | None, answer: _Answer) -> bool:
    """Whether an older lock file, which the kernel does not call taken, counts no longer."""
    if holder is None:
        return answer == "free"
    if holder.job and holder.job == os.environ.get("SLURM_JOB_ID") and _count_restarts() > holder.restarts:
        return True  # the same job before it was requeued
    if answer == "free":
        return _is_this_machine(holder)  # the locks of another one need not reach this one
    return _is_dead(holder)


def _is_dead(holder: Holder) -> bool:
    """Whether the process is known to have ended; numbers mean something within one machine or container only."""
    if sys.platform == "win32" or holder.host != platform.node():
        return False
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _ask_kernel(file: int) -> _Answer:
    """Take the kernel's lock if it can be had; ``"unknown"`` where the system or the disk has none."""
    if sys.platform == "win32":
        return "unknown"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unknown"
    return "free"


def _open(path: Path) -> tuple[int, bool]:
    """The lock file, and whether it had to be made."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile: try again
                return os.open(path, os.O_RDWR), False


def _is_same_file(file: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _remove(file: int, path: Path) -> None:
    if sys.platform == "win32":  # which removes no open file
        os.close(file)
    with contextlib.suppress(OSError):
        path.unlink()  # while it is still locked, so that nobody else's is removed
    if sys.platform != "win32":
        os.close(file)


def _forget_in_child() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_in_child)


def _read(file: int) -> Holder | None:
    """What the file says; None where it says nothing, as between its creation and its first word."""
    os.lseek(file, 0, os.SEEK_SET)
    return _parse(os.read(file, 4096))


def _parse(content: bytes) -> Holder | None:
    try:
        return Holder.model_validate(json.loads(content or b"null"))
    except (ValueError, ValidationError):
        return None


def _write(file: int, holder: Holder) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, 0)
    os.write(file, holder.model_dump_json().encode())
