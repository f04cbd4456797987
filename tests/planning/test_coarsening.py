"""Coarser voxels where the budget is small: only then, just enough, and within limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_fingerprints import make_fingerprint, make_task

from medunet.planning import Effort, Fingerprint, build_plan
from medunet.planning.coarsening import MAX_COARSENING, MIN_LABEL_DIAMETER, MIN_PASSES

LARGE = Effort(voxels=2 * 128**3, features=32)
spacings = st.tuples(*[st.one_of(st.floats(0.3, 6), st.sampled_from([0.5, 1.0, 3.0, 5.0]))] * 3)


def with_passes(fingerprint: Fingerprint, passes: float, effort: Effort = LARGE) -> Effort:
    """An effort whose budget shows every voxel of the dataset so many times."""
    voxels = math.prod(fingerprint.body_shapes[0]) * fingerprint.num_cases
    return Effort(voxels=effort.voxels, features=effort.features, total_voxels=passes * voxels)


@pytest.mark.parametrize("passes", [MIN_PASSES, 2 * MIN_PASSES, 1e6])
def test_enough_passes_keep_the_spacing(passes: float) -> None:
    fingerprint = make_fingerprint((0.8, 0.8, 2.5), (200, 200, 60))
    plan = build_plan(fingerprint, make_task(), with_passes(fingerprint, passes))
    assert plan.spacing == (0.8, 0.8, 2.5)
    assert plan.reasons["spacing"].startswith("median of 200 cases")
    assert "coarsened" not in plan.reasons["spacing"]


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_too_few_passes_coarsen_just_enough(share: float) -> None:
    fingerprint = make_fingerprint((1, 1, 1), (200, 200, 200))
    plan = build_plan(fingerprint, make_task(), with_passes(fingerprint, share * MIN_PASSES))
    reached = share * math.prod(plan.spacing)
    assert 1 - 0.02 <= reached <= 1.03**3 + 0.02
    assert (
        f"coarsened from 1 x 1 x 1 mm because the budget shows every voxel {20 * share:.1f} times"
        in plan.reasons["spacing"]
    )


def test_the_finest_axes_are_coarsened_first() -> None:
    fingerprint = make_fingerprint((0.8, 0.8, 2.5), (200, 200, 60))
    i, j, k = build_plan(fingerprint, make_task(), with_passes(fingerprint, 0.5 * MIN_PASSES)).spacing
    assert 0.8 < i == j < 2.5 == k


@settings(deadline=None, max_examples=60)
@given(spacings, st.tuples(*[st.integers(20, 400)] * 3), st.floats(0.001, 3), st.floats(0.001, 1000))
def test_coarsening_has_limits(spacing: Any, shape: Any, share: float, smallest_ml: float) -> None:
    fingerprint = make_fingerprint(spacing, shape, 10, label_volumes_ml={"a": smallest_ml, "b": 5000.0})
    plan = build_plan(fingerprint, make_task(), with_passes(fingerprint, share * MIN_PASSES))
    diameter_mm = (smallest_ml * 1000 * 6 / math.pi) ** (1 / 3)
    for mm, before in zip(plan.spacing, spacing, strict=True):
        assert before - 1e-4 <= mm <= MAX_COARSENING * before + 1e-4
        if mm > before + 1e-4:
            assert share < 1.02  # rounding of the median shape
            assert diameter_mm / mm >= MIN_LABEL_DIAMETER * 0.999


def test_a_hopeless_budget_coarsens_to_the_limit() -> None:
    fingerprint = make_fingerprint((0.8, 0.9, 2.5), (200, 200, 60))
    plan = build_plan(fingerprint, make_task(), with_passes(fingerprint, 1e-6))
    assert plan.spacing == pytest.approx((1.6, 1.8, 5.0))


def test_air_around_the_body_is_not_counted() -> None:
    """Half of the image is air; the budget shows the body often enough."""
    fingerprint = make_fingerprint((1, 1, 1), (200, 200, 200), body_shape=(200, 100, 200))
    plan = build_plan(fingerprint, make_task(), with_passes(fingerprint, MIN_PASSES))
    assert plan.spacing == (1.0, 1.0, 1.0)
