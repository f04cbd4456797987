"""Stages run side by side, in order, and a failing job costs only itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from medunet.errors import InputError, VolumeError
from medunet.inference.many import Done, is_fault, read_ahead, write_behind


def process_many(jobs: Any, read: Any, make: Any, write: Any) -> Iterator[Done[Any, Any]]:
    return write_behind(read_ahead(jobs, read, make), write)


def read(job: int) -> int:
    return job * 10


def make(job: int, found: int) -> int:
    return found + 1


def write(job: int, made: int) -> str:
    return f"{job}: {made}"


def test_every_job_goes_through_all_stages_in_order() -> None:
    found = list(process_many(range(5), read, make, write))
    assert found == [Done(job=job, result=f"{job}: {job * 10 + 1}") for job in range(5)]
    assert list(process_many([], read, make, write)) == []


@pytest.mark.parametrize("stage", ["read", "make", "write"])
def test_a_failing_job_costs_only_itself(stage: str) -> None:
    def fail(job: int, *rest: int) -> int:
        if job in (0, 3, 4):
            msg = f"job {job} is broken"
            raise VolumeError(msg)
        return rest[0] + 1 if rest else job * 10

    stages = {"read": read, "make": make, "write": write} | {stage: fail}
    found = list(process_many(range(6), stages["read"], stages["make"], stages["write"]))  # type: ignore[arg-type]
    assert [done.job for done in found] == list(range(6))
    assert [done.job for done in found if done.error] == [0, 3, 4]
    assert str(found[3].error) == "job 3 is broken"
    assert all(done.result is None for done in found if done.error)


@pytest.mark.parametrize("stage", ["read", "make", "write"])
@pytest.mark.parametrize("fault", [KeyError("job"), IndexError("1 of 1"), ValueError("odd"), AssertionError()])
def test_a_fault_of_the_program_costs_only_its_own_job(stage: str, fault: Exception) -> None:
    def fail(job: int, *rest: int) -> int:
        if job == 1:
            raise fault
        return job

    stages = {"read": read, "make": make, "write": write} | {stage: fail}
    found = list(process_many(range(3), stages["read"], stages["make"], stages["write"]))  # type: ignore[arg-type]
    assert [done.error for done in found] == [None, fault, None]
    assert [done.result is None for done in found] == [False, True, False]


def test_an_interruption_ends_everything() -> None:
    def interrupt(job: int, found: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(process_many(range(3), read, interrupt, write))


@pytest.mark.parametrize(
    ("error", "is_from_the_program"),
    [
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), True),
        (NotImplementedError("not for this dtype"), True),
        (KeyError("label"), True),
        (ValueError("cannot reshape array of size 3 into shape (2,)"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (MemoryError(), False),
        (OSError("gone"), False),
        (VolumeError("torn"), False),
        (InputError("what a user can get wrong"), False),
    ],
)
def test_what_is_no_fault_of_a_scan_is_told_apart(error: Exception, is_from_the_program: bool) -> None:
    assert is_fault(error) == is_from_the_program


def test_one_is_read_and_one_written_while_one_is_made() -> None:
    # Job 1 is only made once job 2 is being read and job 0 is being written: each waits for the others.
    together = threading.Barrier(3, timeout=20)

    def read_slowly(job: int) -> int:
        if job == 2:
            together.wait()
        return job

    def make_slowly(job: int, found: int) -> int:
        if job == 1:
            together.wait()
        return found

    def write_slowly(job: int, made: int) -> int:
        if job == 0:
            together.wait()
        return made

    found = list(process_many(range(3), read_slowly, make_slowly, write_slowly))
    assert [done.result for done in found] == [0, 1, 2]


def test_no_more_than_one_scan_waits_at_each_end() -> None:
    taken: list[int] = []

    def give() -> Iterator[int]:
        for job in range(20):
            taken.append(job)
            yield job

    results = process_many(give(), read, make, write)
    assert next(results).job == 0
    assert max(taken) <= 3
    results.close()  # type: ignore[attr-defined]
    assert max(taken) <= 3


def test_without_writing_a_result_comes_as_soon_as_it_is_made() -> None:
    made: list[int] = []

    def note(job: int, found: int) -> int:
        made.append(job)
        return found

    results = read_ahead(range(9), read, note)
    assert next(results) == Done(job=0, result=0)
    assert made == [0]


def test_what_was_named_before_a_fault_is_still_made() -> None:
    def name() -> Iterator[str]:
        yield "first"
        raise KeyError

    made = read_ahead(name(), str.upper, lambda job, read: read)
    assert next(made).result == "FIRST"
    with pytest.raises(KeyError):
        next(made)
