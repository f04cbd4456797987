"""nnU-Net's rules for voxel size and order of axes, on datasets worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_fingerprints import make_fingerprint

from medunet.planning import Fingerprint
from medunet.planning.spacing import choose_spacing, compute_median_size, order_axes, to_ras


def with_slices(distances: list[float], *, axis: int = 2, in_plane: float = 1.0, num_slices: int = 10) -> Fingerprint:
    """Cases of 100 x 100 pixels that differ in the distance of their slices."""
    spacings, shape = [], [100, 100, 100]
    for distance in distances:
        spacing = [in_plane] * 3
        spacing[axis] = distance
        spacings.append(tuple(spacing))
    shape[axis] = num_slices
    return make_fingerprint(shape=shape, num_cases=len(distances)).model_copy(update={"spacings": tuple(spacings)})


def test_every_axis_takes_its_median() -> None:
    fingerprint = make_fingerprint(num_cases=3).model_copy(
        update={"spacings": ((0.5, 2.0, 1.0), (0.7, 1.0, 3.0), (0.9, 1.5, 2.0))}
    )
    assert choose_spacing(fingerprint) == ((0.7, 1.5, 2.0), "median of 3 cases")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_coarse_axis_takes_its_tenth_percentile(axis: int) -> None:
    """11 distances from 4 to 9 mm, so that the 10th percentile is the second smallest, 4.5 mm; the median is 6.5."""
    spacing, reason = choose_spacing(with_slices(np.linspace(4, 9, 11).tolist(), axis=axis))
    assert spacing[axis] == pytest.approx(4.5)
    assert [spacing[other] for other in range(3) if other != axis] == [1.0, 1.0]
    assert reason == (
        f"median of 11 cases; axis {'RAS'[axis]} (6.5 mm) is more than 3 times coarser and shorter than the others: "
        "its 10th percentile, 4.5 mm"
    )


@pytest.mark.parametrize(
    ("distances", "num_slices", "expected"),
    [
        ([3.0, 3.0, 3.0], 10, 3.0),  # not more than three times the others
        ([1.0, 3.1, 3.1], 10, 1.42),  # between the first and the second, a fifth of the way: 1 + 0.2 * 2.1
        ([1.0, 3.1, 3.1], 34, 3.1),  # 34 * 3 > 100: not much shorter than the others
        ([1.0, 3.1, 3.1], 33, 1.42),
        ([0.4, 0.5, 3.1, 3.1, 3.1], 10, 1.00001),  # 0.44 mm would be finer than the others
    ],
)
def test_where_the_rule_for_coarse_axes_begins(distances: list[float], num_slices: int, expected: float) -> None:
    spacing, _ = choose_spacing(with_slices(distances, num_slices=num_slices))
    assert spacing[2] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [
        ((1, 1, 1), (2, 1, 0)),
        ((1, 1, 3), (2, 1, 0)),
        ((1, 3, 1), (1, 2, 0)),
        ((3, 1, 1), (0, 2, 1)),
        ((3, 1, 3), (2, 1, 0)),
        ((3, 3, 1), (1, 2, 0)),
    ],
)
def test_the_coarsest_axis_comes_first(spacing: Any, axes: Any) -> None:
    assert order_axes(spacing) == axes


@given(st.permutations([0, 1, 2]), st.tuples(*[st.integers(1, 99)] * 3))
def test_back_to_ras(axes: list[int], values: tuple[int, int, int]) -> None:
    ordered = tuple(values[axis] for axis in axes)
    assert to_ras(ordered, tuple(axes)) == values
    flat = tuple(1 if axis == axes[0] else value for axis, value in enumerate(values))
    assert to_ras(ordered[1:], tuple(axes[1:])) == flat


def test_sizes_are_rounded_case_by_case() -> None:
    """At 2 mm: 25 and 12.6 (13) voxels of 1 and 0.9 mm spacing become 12 (half to even) and 6; the median is 9."""
    sizes = compute_median_size([(1.0, 1.0, 1.0), (0.9, 1.0, 1.0)], [(25, 10, 4), (13, 20, 5)], (2.0, 1.0, 1.0))
    assert sizes.tolist() == [9.0, 15.0, 4.5]
