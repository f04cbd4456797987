"""Many scans: one is read while another is segmented and a third is written, and a failing one costs only itself.

Threads, not processes: reading, the network and writing spend their time in code that lets other threads run, and voxels need
not be copied from one process to another. At most one scan waits at each end, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from medunet.device import is_out_of_memory
from medunet.errors import MedunetError

Job = TypeVar("Job")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")


@dataclass(frozen=True, kw_only=True)
class Done(Generic[Job, Written]):
    """What became of one job.

    Attributes:
        job: As it was given.
        result: Of the last stage; None where the job failed.
        error: What went wrong; None where nothing did.
    """

    job: Job
    result: Written | None = None
    error: Exception | None = None


def read_ahead(
    jobs: Iterable[Job], read: Callable[[Job], Read], make: Callable[[Job, Read], Made]
) -> Iterator[Done[Job, Made]]:
    """Two stages side by side: while one job is made, the next one is read.

    Args:
        jobs: In order; taken one ahead.
        read: Runs in a thread of its own.
        make: Runs in the thread that asks for the results.

    Yields:
        The jobs in order. Whatever goes wrong with a job ends that one alone, a fault of the program (`is_fault`) too: of a
        hundred scans one may be of a kind that nobody has thought of. What is no `Exception`, such as Ctrl+C, ends all, and so
        does whoever names the jobs.
    """
    remaining = iter(jobs)
    with ThreadPoolExecutor(1, "read") as pool:
        ahead = _submit_next(remaining, pool, read)
        try:
            while ahead is not None:
                job, future = ahead
                found, error = _try(future.result)
                broken: Exception | None = None
                try:
                    ahead = _submit_next(remaining, pool, read)
                except Exception as fault:  # whoever names the jobs; this one was named before
                    broken = fault
                if error is not None:
                    yield Done(job=job, error=error)
                else:
                    made, error = _try(partial(make, job, found))  # type: ignore[arg-type]
                    del found  # or it would stay in memory while the next one is made
                    yield Done(job=job, result=made, error=error)
                    del made
                if broken is not None:
                    raise broken
        finally:  # whoever stops asking waits for what is being read, and for no more
            pool.shutdown(cancel_futures=True)


def write_behind(
    made: Iterable[Done[Job, Made]], write: Callable[[Job, Made], Written]
) -> Iterator[Done[Job, Written]]:
    """One more stage: while a job is made, the last one is written.

    Args:
        made: From `read_ahead`; jobs that failed are passed on.
        write: Runs in a thread of its own.

    Yields:
        The jobs in order, as `read_ahead` does.
    """
    behind: tuple[Job, Future[Written]] | None = None
    with ThreadPoolExecutor(1, "write") as pool:
        for done in made:
            if behind is not None:
                yield _finish(*behind)
                behind = None
            if done.error is not None:
                yield Done(job=done.job, error=done.error)
            else:
                behind = (done.job, pool.submit(write, done.job, done.result))  # type: ignore[arg-type]
        if behind is not None:
            yield _finish(*behind)


def is_fault(error: BaseException) -> bool:
    """Whether an error that ended one job is more likely a fault of the program than of the scan, such as shapes that do not fit.

    A scan that cannot be read or does not fit, a disk and a memory that are full have errors of their own. Whoever reports
    any other should show where it was raised.
    """
    return not isinstance(error, (MedunetError, OSError)) and not is_out_of_memory(error)


def _submit_next(
    jobs: Iterator[Job], pool: ThreadPoolExecutor, read: Callable[[Job], Read]
) -> tuple[Job, Future[Read]] | None:
    for job in jobs:
        return job, pool.submit(read, job)
    return None


def _finish(job: Job, future: Future[Written]) -> Done[Job, Written]:
    result, error = _try(future.result)
    return Done(job=job, result=result, error=error)


def _try(function: Callable[[], Written]) -> tuple[Written | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error
