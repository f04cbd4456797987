"""Results come in order whoever draws them, faults come when they are due, and threads end."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
import torch

from medunet.errors import TrainingError
from medunet.training.prefetch import THREAD_NAME, draw_ahead


def count_threads() -> int:
    return sum(thread.name == THREAD_NAME for thread in threading.enumerate())


def describe(number: int) -> str:
    return f"number {number} is drawn from somewhere"


def start(draw: Any, **options: Any) -> Any:
    return draw_ahead(draw, **({"start": 0, "num_workers": 2, "describe": describe} | options))


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_results_come_in_order(num_workers: int) -> None:
    def draw(number: int) -> int:
        time.sleep(random.Random(number).random() * 0.01)
        return number * number

    results = start(draw, start=3, num_workers=num_workers)
    assert [next(results) for _ in range(20)] == [n * n for n in range(3, 23)]
    results.close()
    assert count_threads() == 0


def test_several_threads_draw_at_once() -> None:
    together = threading.Barrier(3, timeout=20)

    def draw(number: int) -> int:
        if number < 3:
            together.wait()  # none goes on before three are here
        return number

    results = start(draw, num_workers=3)
    assert [next(results) for _ in range(6)] == list(range(6))
    results.close()


def test_only_a_few_are_drawn_ahead() -> None:
    drawn: list[int] = []
    results = start(lambda number: drawn.append(number) or number, num_workers=2)
    next(results)
    time.sleep(0.1)
    assert sorted(drawn) == [0, 1, 2, 3]  # the one that was taken, and a result for each thread and one more
    results.close()


def test_without_threads_nothing_is_drawn_ahead() -> None:
    drawn: list[Any] = []
    results = start(lambda number: drawn.append((number, threading.current_thread())), num_workers=0)
    next(results)
    next(results)
    assert drawn == [(0, threading.main_thread()), (1, threading.main_thread())]
    assert count_threads() == 0


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_fault_is_raised_when_it_is_due(num_workers: int) -> None:
    def draw(number: int) -> int:
        if number == 2:
            msg = "the second"
            raise KeyError(msg)
        return number

    results = start(draw, num_workers=num_workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="the second"):
        next(results)
    assert count_threads() == 0


def test_a_read_that_hangs_is_an_error_that_says_what_was_read() -> None:
    released = threading.Event()

    def draw(number: int) -> int:
        if number == 1:
            released.wait(20)
        return number

    results = start(draw, num_workers=2, timeout_seconds=0.2)
    assert next(results) == 0
    threading.Timer(0.6, released.set).start()
    with pytest.raises(TrainingError, match=r"No training patches for 0.2 s: number 1 is drawn from somewhere"):
        next(results)


def test_threads_that_hang_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.prefetch._JOIN_SECONDS", 0.1)
    released = threading.Event()
    results = start(lambda number: released.wait(20), num_workers=1, timeout_seconds=0.1)
    with pytest.raises(TrainingError, match="No training patches"):
        next(results)
    hanging = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    assert [thread.daemon for thread in hanging] == [True]
    released.set()
    hanging[0].join(20)
    assert count_threads() == 0


def test_each_thread_computes_with_one_core_and_the_caller_with_all() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results = start(lambda number: torch.get_num_threads(), num_workers=2)
        assert [next(results) for _ in range(4)] == [1, 1, 1, 1]
        assert torch.get_num_threads() == 3
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
        results.close()
    finally:
        torch.set_num_threads(before)
