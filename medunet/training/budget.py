"""How much training is asked for, in time or in iterations."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from medunet.errors import InputError

FULL_ITERATIONS = 250_000
"""nnU-Net's 1000 epochs of 250 iterations."""
_SECONDS_PER_UNIT = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Either a time or a number of iterations; the learning rate falls over exactly this.

    Attributes:
        seconds: Time in the training loop; None when iterations are counted.
        iterations: Optimiser steps; None when time is counted.
        is_full: Whether nnU-Net's recipe is asked for instead of one that fits the budget.
    """

    seconds: float | None = None
    iterations: int | None = None
    is_full: bool = False

    def take_share(self, share: float) -> Budget:
        """What one of several trainings gets: a part of the time, but all of the iterations, which are a recipe."""
        return replace(self, seconds=None if self.seconds is None else self.seconds * share)

    def compute_progress(self, iteration: int, seconds: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        if self.iterations is not None:
            return min(1.0, iteration / self.iterations)
        return min(1.0, seconds / self.seconds) if self.seconds else 1.0


def parse_budget(text: str) -> Budget:
    """Read ``"10min"``, ``"90s"``, ``"1.5h"``, ``"5000it"``, ``"full"`` or ``"full 300it"``.

    ``full`` is nnU-Net's recipe: its plan, optimiser and 250,000 iterations, or as many as are named behind it.

    Raises:
        InputError: If it is none of these, or not positive.

    Example:
        >>> parse_budget("1.5h")
        Budget(seconds=5400.0, iterations=None, is_full=False)
    """
    words = text.split(maxsplit=1)
    if words[:1] != ["full"]:
        return _parse_amount(text, text)
    budget = _parse_amount(words[1], text) if len(words) > 1 else Budget(iterations=FULL_ITERATIONS)
    return replace(budget, is_full=True)


def _parse_amount(amount_text: str, text: str) -> Budget:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|it)\s*", amount_text)
    amount = float(match.group(1)) if match else 0.0
    if match is None or amount <= 0 or (match.group(2) == "it" and not amount.is_integer()):
        msg = f"The budget '{text}' is not understood; expected a time such as 10min or 2h, iterations such as 5000it, or full."
        raise InputError(msg)
    if match.group(2) == "it":
        return Budget(iterations=int(amount))
    return Budget(seconds=amount * _SECONDS_PER_UNIT[match.group(2)])
