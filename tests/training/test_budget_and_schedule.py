"""What a budget means, and the learning rate over it."""

from __future__ import annotations

import pytest

from medunet.errors import InputError
from medunet.training import Budget, parse_budget
from medunet.training.schedule import compute_learning_rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Budget(seconds=90)),
        ("90sec", Budget(seconds=90)),
        ("10min", Budget(seconds=600)),
        ("10 min", Budget(seconds=600)),
        ("2m", Budget(seconds=120)),
        ("1.5h", Budget(seconds=5400)),
        (" 0.5h ", Budget(seconds=1800)),
        ("5000it", Budget(iterations=5000)),
        ("3.0it", Budget(iterations=3)),
    ],
)
def test_budgets_are_read(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    "text", ["", "10", "min", "-5min", "0it", "0s", "2.5it", "1e3it", "ten min", "10 days", "nan h"]
)
def test_other_budgets_are_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"10min or 2h.*5000it"):
        parse_budget(text)


def test_progress_counts_what_the_budget_counts() -> None:
    assert Budget(iterations=200).compute_progress(50, 1e9) == 0.25
    assert Budget(iterations=200).compute_progress(500, 0) == 1
    assert Budget(seconds=100).compute_progress(10**9, 25) == 0.25
    assert Budget(seconds=100).compute_progress(0, 101) == 1


def test_the_learning_rate_rises_once_then_falls_to_zero() -> None:
    rates = [compute_learning_rate(2.0, step / 1000) for step in range(1001)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.02)
    assert top == 20
    assert rates[top] == pytest.approx(2.0)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[510] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0)
