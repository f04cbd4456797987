"""Limits of numbers: how often usual cases cross them, and what they must not let pass."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.models.quality import Range
from medunet.postprocessing.tolerance import compute_widening, widen_range


def build_range(values: object) -> Range:
    found = Range.of(values)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("num_cases", [5, 10, 30, 200])
@pytest.mark.parametrize("chance", [0.05, 0.01])
def test_usual_numbers_cross_the_limits_as_rarely_as_is_asked_for(num_cases: int, chance: float) -> None:
    generator = np.random.default_rng(num_cases)
    numbers = generator.normal(40, 7, (4000, num_cases + 1))
    share = 0.5 + compute_widening(num_cases, chance)
    low, high = numbers[:, :-1].min(1), numbers[:, :-1].max(1)
    outside = np.abs(numbers[:, -1] - (low + high) / 2) > share * (high - low)
    # Of five cases the widening is cut off at twice the range; the minimum and maximum of many are wide enough.
    assert outside.mean() <= 1.5 * chance + 0.002
    if num_cases in (10, 30):
        assert outside.mean() >= 0.4 * chance


def test_the_bare_range_would_cry_wolf_in_every_third_case() -> None:
    numbers = np.random.default_rng(0).normal(0, 1, (4000, 6))
    outside = (numbers[:, -1] < numbers[:, :-1].min(1)) | (numbers[:, -1] > numbers[:, :-1].max(1))
    assert outside.mean() == pytest.approx(1 / 3, abs=0.03)


def test_more_cases_and_a_larger_chance_narrow_the_limits_down_to_the_range() -> None:
    widenings = [compute_widening(num_cases, 0.01) for num_cases in (5, 8, 15, 40, 100, 500, 5000)]
    assert widenings == sorted(widenings, reverse=True)
    assert widenings[-1] == 0
    assert compute_widening(20, 0.001) > compute_widening(20, 0.01)
    assert compute_widening(5, 1e-9) == 2


def test_sizes_are_spread_by_factors() -> None:
    limits = widen_range(build_range([10.0, 20.0, 25.0, 30.0, 40.0, 40.0]), 6, chance=0.01, scale="log")
    assert limits is not None
    assert 10 / limits[0] == pytest.approx(limits[1] / 40)
    assert limits[0] > 0


def test_a_margin_is_allowed_where_all_cases_are_the_same() -> None:
    same = build_range([2.0] * 6)
    assert widen_range(same, 6, chance=0.01) == (2, 2)
    assert widen_range(same, 6, chance=0.01, margin=0.5) == (1.5, 2.5)
    assert widen_range(same, 6, chance=0.01, scale="log", margin=1.25) == pytest.approx((1.6, 2.5))


def test_of_too_few_cases_there_are_no_limits() -> None:
    assert widen_range(build_range([1.0, 2.0, 3.0, 4.0]), 4, chance=0.01) is None
