"""Threads that compute side by side: each with one core, because several that each use all cores wait for one another."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


def use_one_core() -> None:
    """Let torch use one core in the calling thread; within `keeping_cores`, no other thread is changed for good."""
    # The first call in a thread takes over the number of the process; after it the thread's own number stays.
    torch.get_num_threads()
    torch.set_num_threads(1)


@contextmanager
def keeping_cores() -> Generator[None, None, None]:
    """Threads that begin after this block use as many cores as the calling thread, whatever was set meanwhile.

    torch takes what one thread sets for itself as the default of all threads that begin later.
    """
    num_cores = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_cores)
