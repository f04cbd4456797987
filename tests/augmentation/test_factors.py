"""Factors around 1: both sides equally often, uniform on each."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.augmentation.factors import sample_factors


def test_both_sides_are_drawn_equally_often() -> None:
    factors = np.array(sample_factors(np.random.default_rng(0), (0.7, 1.5), 4000))
    below, above = factors[factors < 1], factors[factors >= 1]
    assert len(below) == pytest.approx(2000, abs=4 * 1000**0.5)
    assert below.min() == pytest.approx(0.7, abs=0.01)
    assert above.max() == pytest.approx(1.5, abs=0.01)
    assert below.mean() == pytest.approx(0.85, abs=0.01)
    assert above.mean() == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize("bounds", [(0.5, 0.8), (1.2, 1.5), (0.4, 1.0), (1.0, 2.0), (1.0, 1.0)])
def test_bounds_on_one_side_are_kept(bounds: tuple[float, float]) -> None:
    factors = np.array(sample_factors(np.random.default_rng(1), bounds, 400))
    low, high = bounds
    assert low <= factors.min() <= low + 0.01
    assert high - 0.01 <= factors.max() <= high
    assert factors.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low) + 1e-9)


@pytest.mark.parametrize("bounds", [(0.5, 0.8), (0.7, 1.4)])
def test_the_bounds_do_not_move_what_comes_after(bounds: tuple[float, float]) -> None:
    rng, other = np.random.default_rng(2), np.random.default_rng(2)
    sample_factors(rng, bounds, 3)
    other.random(6)
    assert rng.random() == other.random()
