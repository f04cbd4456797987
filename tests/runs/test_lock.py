"""A folder belongs to one run; what a dead one left behind is no obstacle on its own machine."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medunet.errors import OutputError
from medunet.runs import lock
from medunet.runs.lock import LOCK_FILE, RunLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="flock")


def write_holder(folder: Path, **changes: Any) -> None:
    """A lock file that nobody has locked."""
    holder = {"host": "elsewhere", "boot": "b", "process": 1234, "started": "2026-01-31T10:00:00+01:00"} | changes
    folder.mkdir(exist_ok=True)
    (folder / LOCK_FILE).write_text(json.dumps(holder))


def read_holder(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / LOCK_FILE).read_text())
    return content


def find_dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_second_run_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        holder = read_holder(tmp_path)
        assert holder["process"] == os.getpid()
        with pytest.raises(
            OutputError, match=r"is being written by process \d+ on \S+ since \d{4}-.*another"
        ) as caught:
            RunLock(tmp_path).__enter__()
        for part in (str(tmp_path), f"process {os.getpid()}", holder["host"], holder["started"]):
            assert part in str(caught.value)
        assert read_holder(tmp_path) == holder


def test_the_folder_is_free_after_the_first_run(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path):
            assert (tmp_path / LOCK_FILE).is_file()
        assert list(tmp_path.iterdir()) == []


def test_a_failed_run_frees_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path):
        pass


def test_two_folders_are_two_locks(tmp_path: Path) -> None:
    with RunLock(tmp_path / "a"), RunLock(tmp_path / "b"):
        assert read_holder(tmp_path / "a")["process"] == read_holder(tmp_path / "b")["process"]


def test_folders_that_stayed_empty_are_removed(tmp_path: Path) -> None:
    with RunLock(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert not (tmp_path / "new").exists()
    with RunLock(tmp_path / "new" / "run"):
        (tmp_path / "new" / "run" / "plan.json").write_text("{}")
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["plan.json"]


_HOLD = """
import importlib.util, os, pathlib, sys, time
from medunet.errors import OutputError  # lock.py alone, since medunet.training takes seconds
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
sys.modules["lock"] = lock
spec.loader.exec_module(lock)
with lock.RunLock(pathlib.Path(sys.argv[2])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # not by the parent: then the child may not have run yet
        time.sleep(60)  # a data worker that outlives its parent
        os._exit(0)
    time.sleep(60)
"""


def test_a_killed_run_is_taken_over_though_a_worker_of_it_lives(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, lock.__file__, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        try:
            with pytest.raises(OutputError, match=f"process {holder.pid} "):
                RunLock(tmp_path).__enter__()
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert read_holder(tmp_path)["process"] == holder.pid
            with RunLock(tmp_path):
                assert read_holder(tmp_path)["process"] == os.getpid()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_another_machine_is_believed_to_be_alive(tmp_path: Path) -> None:
    write_holder(tmp_path)
    before = read_holder(tmp_path)
    with pytest.raises(
        OutputError, match=r"process 1234 on elsewhere since 2026-01-31.*no longer runs, delete .*run.lock"
    ):
        RunLock(tmp_path).__enter__()
    assert read_holder(tmp_path) == before


@pytest.mark.skipif(not lock._BOOT_ID.is_file(), reason="Linux names its boots")
def test_another_container_on_this_machine_is_known_to_be_dead(tmp_path: Path) -> None:
    """It has a host name of its own, but the same kernel, whose lock is free."""
    write_holder(tmp_path, boot=lock._read_boot_id())
    with RunLock(tmp_path):
        assert read_holder(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize(("job", "restarts", "is_free"), [("77", "1", True), ("77", "0", False), ("78", "1", False)])
def test_a_requeued_job_takes_over_from_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, restarts: str, is_free: bool
) -> None:
    """SLURM may start it on another node; the same job without a restart is another step of it, which may be alive."""
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    write_holder(tmp_path, job="77", restarts=0)
    if not is_free:
        with pytest.raises(OutputError, match="on elsewhere"):
            RunLock(tmp_path).__enter__()
        return
    with RunLock(tmp_path):
        assert (read_holder(tmp_path)["job"], read_holder(tmp_path)["restarts"]) == ("77", 1)


@pytest.mark.parametrize("content", ["", "{", '{"host": 3}', "[]"])
def test_a_lock_file_that_says_nothing_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with RunLock(tmp_path):
        assert read_holder(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_disk_without_locks_goes_by_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_alive: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    own = lock._describe_self().model_dump()
    write_holder(tmp_path, **(own | {"process": os.getppid() if is_alive else find_dead_process()}))
    if is_alive:
        with pytest.raises(OutputError, match=f"process {os.getppid()} "):
            RunLock(tmp_path).__enter__()
    else:
        with RunLock(tmp_path), pytest.raises(OutputError, match=f"process {os.getpid()} "):
            RunLock(tmp_path).__enter__()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*run.lock: a part of the path is a file"):
        RunLock(tmp_path / "file" / "run").__enter__()


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OutputError, match="disk is full"):
            RunLock(tmp_path / "run").__enter__()
    assert not (tmp_path / "run").exists()
