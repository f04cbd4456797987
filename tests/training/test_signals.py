"""A signal asks, it does not end; and afterwards everything is as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from medunet.training.signals import StopSignals

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_becomes_a_reason(number: signal.Signals) -> None:
    with StopSignals() as signals:
        assert signals.should_stop() is None
        os.kill(os.getpid(), number)
        assert signals.should_stop() == number.name


@pytest.mark.parametrize("number", SIGNALS)
def test_the_handlers_of_before_are_restored(number: signal.Signals) -> None:
    def mine(*_: object) -> None:
        pass

    before = signal.signal(number, mine)
    try:
        with contextlib.suppress(ZeroDivisionError), StopSignals():
            assert signal.getsignal(number) is not mine
            raise ZeroDivisionError
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


def test_the_first_reason_stays() -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert signals.should_stop() == "SIGUSR1"


@pytest.mark.parametrize("first", SIGNALS)
def test_ctrl_c_while_a_stop_is_pending_ends_at_once(first: signal.Signals) -> None:
    with StopSignals() as signals:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.should_stop() == first.name


def test_another_thread_changes_nothing() -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    found: list[object] = []

    def enter() -> None:
        with StopSignals() as signals:
            found.extend([signals.should_stop(), [signal.getsignal(number) for number in SIGNALS]])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None, handlers]


_WORKER = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("signals", sys.argv[1])  # without the rest of medunet, which takes seconds
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with module.StopSignals() as signals:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.write(tell, b"alive")
        for _ in range(600):  # a signal that comes just before one long sleep would be seen after it
            time.sleep(0.1)
        os._exit(0)
    assert os.read(told, 5) == b"alive"
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
    assert signals.should_stop() is None
"""


def test_a_forked_worker_ends_when_it_is_told_and_only_then() -> None:
    """Ctrl-C in a terminal reaches the workers too, and the parent still needs them for its last step."""
    from medunet.training import signals

    done = subprocess.run(
        [sys.executable, "-c", _WORKER, signals.__file__], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
