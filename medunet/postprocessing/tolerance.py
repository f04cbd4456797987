"""How far from what was seen in training a number may lie before anybody is told.

Of n numbers of one kind, the next lies outside their range by pure chance in 2 of n + 1 cases: in every third after five
training cases. And every scan is held against a dozen such ranges, with 25 labels against more than a hundred. So a range
is widened before a number is held against it, the more, the fewer cases stand behind it and the more numbers are judged.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from scipy.special import ndtri, stdtrit

from medunet.models.quality import Range

MIN_CASES: Final = 5
"""Of fewer numbers the range says too little to judge by."""
_MAX_WIDENING: Final = 2.0  # ranges to each side; more, and next to nothing would ever be outside

Scale = Literal["linear", "log"]


def widen_range(
    seen: Range, num_cases: int, *, chance: float, scale: Scale = "linear", margin: float = 0.0
) -> tuple[float, float] | None:
    """The limits that a number of a new case keeps, unless something is unusual.

    Args:
        seen: In training.
        num_cases: Behind ``seen``.
        chance: That a number of a usual case lies outside nevertheless.
        scale: ``"log"`` for sizes, which are spread by factors: half as large is as far away as twice as large.
        margin: Always allowed beyond what was seen, whatever the spread, because it means nothing: in the number's unit,
            or a factor on the logarithmic scale (0 means none on both).

    Returns:
        Lower and upper limit; None of fewer than `MIN_CASES`.

    Example:
        >>> seen = Range.of([40.0, 50.0, 60.0, 80.0, 100.0])
        >>> [round(limit) for limit in widen_range(seen, 5, chance=0.01, scale="log")]
        [9, 469]
        >>> [round(limit) for limit in widen_range(seen, 50, chance=0.01, scale="log")]
        [36, 111]
    """
    if num_cases < MIN_CASES:
        return None
    is_log = scale == "log" and seen.minimum > 0
    low, high = (math.log(seen.minimum), math.log(seen.maximum)) if is_log else (seen.minimum, seen.maximum)
    allowed = math.log(max(1.0, margin)) if is_log else margin
    beyond = max(allowed, compute_widening(num_cases, chance) * (high - low))
    return (math.exp(low - beyond), math.exp(high + beyond)) if is_log else (low - beyond, high + beyond)


def compute_widening(num_cases: int, chance: float) -> float:
    """What is added to each side of a range, as a share of its width.

    The widened range is the prediction interval of a normal distribution, t s sqrt(1 + 1/n) to each side of the middle,
    whose deviation s is read off the range: n normal numbers span d deviations on average (Tippett, Biometrika
    17, 1925; d by Blom's approximation). It is never narrower than the range itself, and never wider by more than twice
    the range on each side.

    Args:
        num_cases: At least 2.
        chance: That a number of a usual case lies outside.

    Example:
        >>> [round(compute_widening(num_cases, 0.01), 2) for num_cases in (5, 10, 20, 50, 100, 1000)]
        [1.64, 0.6, 0.28, 0.1, 0.03, 0.0]
    """
    deviations_in_range = 2 * float(ndtri((num_cases - 0.375) / (num_cases + 0.25)))
    half_width = float(stdtrit(num_cases - 1, 1 - chance / 2)) * math.sqrt(1 + 1 / num_cases)
    return min(max(half_width / deviations_in_range - 0.5, 0.0), _MAX_WIDENING)
