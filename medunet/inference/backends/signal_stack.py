"""Keeps the stack on which signals are handled.

OpenVINO's CPU plugin gives the thread that compiles a network an alternate stack for signals which just holds the processor's
state. Python's handlers run on it, too, and overflow it: after a first network, Ctrl-C or SIGTERM ended the process with a
segmentation fault.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux (man 2 sigaltstack)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Whatever happens within, this thread's alternate stack for signals is the same afterwards; on Linux."""
    if sys.platform != "linux":
        yield
        return
    system, before = ctypes.CDLL(None), _Stack()
    system.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(before), None)
