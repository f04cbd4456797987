"""Limits of containers and of jobs of a scheduler, read from folders that look like those of Linux."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from medunet import control_groups
from medunet.control_groups import find_processor_quota, measure_memory_room

UNLIMITED = "9223372036854771712"  # as version 1 says it


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "_MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "cgroup"


def join(root: Path, membership: str) -> None:
    root.mkdir(exist_ok=True)
    (root.parent / "membership").write_text(membership)


def put(folder: Path, **files: str) -> None:
    """Files of a group; double underscores stand for dots."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


STAT = "anon 3000\ninactive_file 300\nactive_file 200"
STAT_OF_FIRST = "cache 1\ninactive_file 7\nactive_file 7\ntotal_inactive_file 300\ntotal_active_file 200"


@pytest.mark.parametrize(
    ("limit", "taken", "room"),
    [("5000", "4000", 1500), ("5000", "6000", 0), ("max", "4000", math.inf), (None, "4000", math.inf)],
)
def test_a_container_of_the_second_version(root: Path, limit: str | None, taken: str, room: float) -> None:
    """Its own group is the topmost; pages of files, looked at lately or not, make room."""
    join(root, "0::/\n")
    put(root, memory__current=taken, memory__stat=STAT)
    if limit is not None:
        put(root, memory__max=limit)
    assert measure_memory_room() == room


def test_a_job_of_a_scheduler_has_the_limits_of_all_groups_around_it(root: Path) -> None:
    """SLURM limits the job, and the step that runs in it not at all; the topmost group has no such files."""
    join(root, "0::/system.slice/job_7/step_0/user/task_0\n")
    job = root / "system.slice" / "job_7"
    put(root / "system.slice", memory__max="max", memory__current="90000", memory__stat=STAT)
    put(job, memory__max="5000", memory__current="4000", memory__stat=STAT, cpu__max="250000 100000")
    put(job / "step_0", memory__max="max", memory__current="3000", memory__stat=STAT, cpu__max="max 100000")
    assert (measure_memory_room(), find_processor_quota()) == (1500, 2.5)
    put(job / "step_0", memory__max="3100", cpu__max="50000 100000")
    assert (measure_memory_room(), find_processor_quota()) == (600, 0.5)


@pytest.mark.parametrize(("high", "room"), [("4200", 700), ("max", 1500), ("9000", 1500)])
def test_a_soft_limit_counts_where_it_is_the_lower_one(root: Path, high: str, room: float) -> None:
    """systemd's ``MemoryHigh`` and Kubernetes' memory QoS: nothing is ended there, but all of it crawls."""
    join(root, "0::/\n")
    put(root, memory__max="5000", memory__high=high, memory__current="4000", memory__stat=STAT)
    assert measure_memory_room() == room
    (root / "memory.max").write_text("max\n")
    put(root, memory__high="4200")
    assert measure_memory_room() == 700


def test_the_first_version_has_a_tree_per_controller(root: Path) -> None:
    join(root, "9:name=systemd:/other\n4:memory:/slurm/job_7\n2:cpu,cpuacct:/slurm/job_8\n0::/\n")
    put(root / "memory", memory__limit_in_bytes=UNLIMITED, memory__usage_in_bytes="8000", memory__stat=STAT_OF_FIRST)
    put(
        root / "memory/slurm/job_7",
        memory__limit_in_bytes="5000",
        memory__usage_in_bytes="4000",
        memory__stat=STAT_OF_FIRST,
    )
    put(root / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    put(root / "cpu/slurm/job_8", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    assert (measure_memory_room(), find_processor_quota()) == (1500, 1.5)


def test_a_container_of_the_first_version_knows_only_the_path_on_its_host(root: Path) -> None:
    join(root, "4:memory:/docker/0123abcd\n3:cpu,cpuacct:/docker/0123abcd\n")
    put(root / "memory", memory__limit_in_bytes="5000", memory__usage_in_bytes="4000", memory__stat=STAT_OF_FIRST)
    put(root / "cpu", cpu__cfs_quota_us="400000", cpu__cfs_period_us="100000")
    assert (measure_memory_room(), find_processor_quota()) == (1500, 4.0)


def test_groups_without_limits_and_systems_without_groups(root: Path) -> None:
    assert (measure_memory_room(), find_processor_quota()) == (math.inf, math.inf)  # not Linux
    join(root, "0::/user.slice\n")
    assert (measure_memory_room(), find_processor_quota()) == (math.inf, math.inf)
    put(root / "user.slice", cpu__max="max 100000")
    assert find_processor_quota() == math.inf
