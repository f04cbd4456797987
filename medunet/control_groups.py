"""What the control group of this process allows: containers and job schedulers give less than the machine has.

Linux keeps groups as folders within folders, and the limits of all that lie around a group count as well. There are two versions of
them, which name files differently; older clusters have the first
(https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
"""A line per hierarchy, such as ``4:memory:/slurm/job_7`` (version 1) and ``0::/kubepods/pod7`` (version 2)."""
_ROOT = Path("/sys/fs/cgroup")


def measure_memory_room() -> float:
    """Bytes that the processes of the group may still take; infinite where nothing limits them.

    Pages of files count as taken, but the kernel gives them up before anything fails.
    """
    return min((_measure_room(group) for group in _list_groups("memory")), default=math.inf)


def find_processor_quota() -> float:
    """Cores whose time the group may use; infinite where nothing limits it."""
    return min((_read_quota(group) for group in _list_groups("cpu")), default=math.inf)


def _list_groups(controller: str) -> Iterator[Path]:
    """Folders of the group of this process and of all around it, that limit what the controller is for.

    A container may be told the path that its group has on the host, which is not there; then the topmost folder is its own.
    """
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and controller not in controllers.split(","):
            continue
        top = _ROOT / controller if controllers else _ROOT
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def _measure_room(group: Path) -> float:
    is_second = (group / "memory.current").exists()
    # Above `memory.high` the kernel does not end a process, but slows it down until it is of no use.
    limits = ("memory.max", "memory.high") if is_second else ("memory.limit_in_bytes",)
    taken = "memory.current" if is_second else "memory.usage_in_bytes"
    of_files = ("inactive_file", "active_file") if is_second else ("total_inactive_file", "total_active_file")
    limit = min(_read_limit(group / name) for name in limits)
    if limit == math.inf:
        return math.inf
    try:
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        room = limit - int((group / taken).read_text()) + sum(int(counts.get(name, 0)) for name in of_files)
    except (OSError, ValueError):  # the group has ended, or says something that no kernel is known to say
        return math.inf
    return max(0, room)


def _read_limit(path: Path) -> float:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no limit: no file, as in the topmost group, or "max"
        return math.inf


def _read_quota(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf  # version 1 says -1 for no limit
    except (OSError, ValueError):  # version 2 says "max", and the topmost group nothing
        return math.inf
