"""Statistics of a dataset from sketches of its cases."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.planning.intensity import choose_num_points, combine_sketches, sketch_foreground


def test_sketches_give_what_the_pooled_voxels_give() -> None:
    """Of three cases with as many voxels each, so that pooling weighs them alike."""
    rng = np.random.default_rng(0)
    cases = [rng.gamma(2.0, 30.0 + 20 * n, size=50_000).astype(np.float32) - 100 * n for n in range(3)]
    found = combine_sketches([sketch_foreground(values, 10_000) for values in cases])
    pooled = np.concatenate(cases).astype(np.float64)
    assert found.mean == pytest.approx(pooled.mean())
    assert found.std == pytest.approx(pooled.std())
    assert (found.minimum, found.maximum) == (pooled.min(), pooled.max())
    expected = np.percentile(pooled, [0.5, 50, 99.5])
    assert np.allclose([found.percentile_00_5, found.median, found.percentile_99_5], expected, atol=0.5)


def test_millions_of_voxels_are_sampled_but_their_extremes_kept() -> None:
    values = np.random.default_rng(1).normal(40, 10, 1_500_000).astype(np.float32)
    values[[7, 8]] = -5000, 9000
    sketch = sketch_foreground(values, 1000)
    assert sketch.quantiles[[0, -1]].tolist() == [-5000, 9000]
    assert sketch.mean == values.mean(dtype=np.float64)
    assert np.median(sketch.quantiles) == pytest.approx(40, abs=0.1)
    assert np.array_equal(sketch.quantiles, sketch_foreground(values, 1000).quantiles)


def test_one_voxel_is_enough() -> None:
    found = combine_sketches([sketch_foreground(np.array([3.5], np.float32), 100)])
    assert set(found.model_dump().values()) == {3.5, 0.0}


@pytest.mark.parametrize(("num_cases", "num_points"), [(1, 10_000), (1000, 10_000), (10_000, 1000), (10**9, 2)])
def test_memory_does_not_grow_with_the_cases(num_cases: int, num_points: int) -> None:
    assert choose_num_points(num_cases) == num_points
