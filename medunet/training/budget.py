"""How much training is asked for, in time or in iterations."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medunet.errors import InputError

_SECONDS_PER_UNIT = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Either a time or a number of iterations; the learning rate falls over exactly this.

    Attributes:
        seconds: Time in the training loop; None when iterations are counted.
        iterations: Optimiser steps; None when time is counted.
    """

    seconds: float | None = None
    iterations: int | None = None

    def compute_progress(self, iteration: int, seconds: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        if self.iterations is not None:
            return min(1.0, iteration / self.iterations)
        return min(1.0, seconds / self.seconds) if self.seconds else 1.0


def parse_budget(text: str) -> Budget:
    """Read ``"10min"``, ``"90s"``, ``"1.5h"`` or ``"5000it"``.

    Raises:
        InputError: If it is none of these, or not positive.

    Example:
        >>> parse_budget("1.5h")
        Budget(seconds=5400.0, iterations=None)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|it)\s*", text)
    amount = float(match.group(1)) if match else 0.0
    if match is None or amount <= 0 or (match.group(2) == "it" and not amount.is_integer()):
        msg = (
            f"The budget '{text}' is not understood; expected a time such as 10min or 2h, or iterations such as 5000it."
        )
        raise InputError(msg)
    if match.group(2) == "it":
        return Budget(iterations=int(amount))
    return Budget(seconds=amount * _SECONDS_PER_UNIT[match.group(2)])
