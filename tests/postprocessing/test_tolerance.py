"""Limits of numbers: how often usual cases cross them, and what they must not let pass."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.models.quality import Range
from medunet.postprocessing.tolerance import widen_range


def build_range(values: object) -> Range:
    found = Range.of(values)  # type: ignore[arg-type]
    assert found is not None
    return found


def is_outside(number: float, limits: tuple[float, float] | None) -> bool:
    assert limits is not None
    return not limits[0] <= number <= limits[1]


@pytest.mark.parametrize("num_cases", [5, 10, 30, 200])
@pytest.mark.parametrize("chance", [0.05, 0.01])
def test_usual_numbers_cross_the_limits_as_rarely_as_is_asked_for(num_cases: int, chance: float) -> None:
    numbers = np.random.default_rng(num_cases).normal(40, 7, (2000, num_cases + 1)).tolist()
    outside = [is_outside(new, widen_range(build_range(seen), num_cases, chance=chance)) for new, *seen in numbers]
    assert np.mean(outside) <= 1.5 * chance + 0.002
    if num_cases in (10, 30):  # of five cases the limits are cut off; of many, the range itself is wide enough
        assert np.mean(outside) >= 0.3 * chance


def test_the_bare_range_would_cry_wolf_in_every_third_case() -> None:
    numbers = np.random.default_rng(0).normal(0, 1, (4000, 6))
    outside = (numbers[:, -1] < numbers[:, :-1].min(1)) | (numbers[:, -1] > numbers[:, :-1].max(1))
    assert outside.mean() == pytest.approx(1 / 3, abs=0.03)


def test_more_cases_and_a_larger_chance_narrow_the_limits_down_to_the_range() -> None:
    normal = Range(minimum=-2.5, percentile_05=-1.645, median=0, percentile_95=1.645, maximum=2.5)
    limits = [widen_range(normal, num_cases, chance=0.01) for num_cases in (5, 8, 15, 40, 100, 500, 5000)]
    uppers = [found[1] for found in limits if found is not None]
    assert len(uppers) == 7
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[0] > 7
    assert uppers[-1] == 2.5
    strict, lenient = (widen_range(normal, 20, chance=chance) for chance in (0.01, 0.001))
    assert strict is not None
    assert lenient is not None
    assert lenient[1] > strict[1]
    assert widen_range(normal, 5, chance=1e-9) == (-12.5, 12.5)


def test_one_odd_case_does_not_open_the_limits_for_others() -> None:
    usual = np.random.default_rng(3).normal(50, 4, 29).tolist()
    limits = widen_range(build_range([*usual, 150.0]), 30, chance=0.001)
    assert limits is not None
    assert limits[0] > 20  # as if it were not there
    assert limits[1] == 150


def test_sizes_are_spread_by_factors() -> None:
    limits = widen_range(build_range([10.0, 20.0, 25.0, 30.0, 40.0, 40.0]), 6, chance=0.01, scale="log")
    assert limits is not None
    median = np.sqrt(25 * 30)
    assert limits[0] < 10
    assert median / limits[0] == pytest.approx(limits[1] / median, rel=0.01)


def test_a_margin_is_allowed_where_all_cases_are_the_same() -> None:
    same = build_range([2.0] * 6)
    assert widen_range(same, 6, chance=0.01) == (2, 2)
    assert widen_range(same, 6, chance=0.01, margin=0.5) == (1.5, 2.5)
    assert widen_range(same, 6, chance=0.01, scale="log", margin=1.25) == pytest.approx((1.6, 2.5))


def test_of_too_few_cases_there_are_no_limits() -> None:
    assert widen_range(build_range([1.0, 2.0, 3.0, 4.0]), 4, chance=0.01) is None
