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
_MANY_CASES: Final = 20
_MAX_HALF_WIDTH: Final = 2.5  # ranges; wider, and next to nothing would ever be outside

Scale = Literal["linear", "log"]


def widen_range(
    seen: Range, num_cases: int, *, chance: float, scale: Scale = "linear", margin: float = 0.0
) -> tuple[float, float] | None:
    """The limits that a number of a new case keeps, unless something is unusual.

    They are the prediction interval of a normal distribution, t s sqrt(1 + 1/n) to each side of the median, and never
    narrower than what was seen. The deviation s is read off what the range keeps: n normal numbers span a known number of
    deviations on average (Tippett, Biometrika 17, 1925), and so do their 5th and 95th percentile. Of at least 20 cases the
    smaller of the two answers counts, so that one odd case among many does not open the limits for all that is odd; of
    fewer, the percentiles are hardly more than the range. The limits lie at most 2.5 times the range from the median.

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
        [8, 425]
        >>> [round(limit) for limit in widen_range(seen, 50, chance=0.01, scale="log")]
        [35, 104]
    """
    if num_cases < MIN_CASES:
        return None
    is_log = scale == "log" and seen.minimum > 0
    values = (seen.minimum, seen.percentile_05, seen.median, seen.percentile_95, seen.maximum)
    lowest, low, median, high, highest = map(math.log, values) if is_log else values
    deviation = (highest - lowest) / _count_deviations(num_cases, 0.0)
    if num_cases >= _MANY_CASES:
        deviation = min(deviation, (high - low) / _count_deviations(num_cases, 0.05))
    reach = float(stdtrit(num_cases - 1, 1 - chance / 2)) * math.sqrt(1 + 1 / num_cases) * deviation
    reach = min(reach, _MAX_HALF_WIDTH * (highest - lowest))
    allowed = math.log(max(1.0, margin)) if is_log else margin
    lower, upper = min(median - reach, lowest - allowed), max(median + reach, highest + allowed)
    return (math.exp(lower), math.exp(upper)) if is_log else (lower, upper)


def _count_deviations(num_cases: int, tail: float) -> float:
    """How far apart two opposite percentiles of so many normal numbers are on average, in deviations (after Blom 1958)."""
    place = tail * (num_cases - 1)  # as numpy counts percentiles: between two of the sorted numbers
    first = math.floor(place)
    expected = [float(ndtri((order + 1 - 0.375) / (num_cases + 0.25))) for order in (first, first + 1)]
    return -2 * (expected[0] + (place - first) * (expected[1] - expected[0]))
