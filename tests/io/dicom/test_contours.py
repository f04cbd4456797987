"""Outlines of masks and masks of outlines, checked against polygons worked out by hand and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from medunet.io.dicom.contours import fill_contours, trace_contours

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


def locate(mask: np.ndarray) -> set[tuple[int, int]]:
    """``(row, column)`` of the pixels."""
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


# ---- round trip ------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_filling_a_traced_mask_gives_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(fill_contours(trace_contours(mask), mask.shape), mask)


@settings(max_examples=100, deadline=None)
@given(MASKS, st.integers(0, 10_000))
def test_the_round_trip_survives_coordinates_that_are_off_by_a_tenth_of_a_pixel(mask: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [polygon + rng.uniform(-0.1, 0.1, polygon.shape) for polygon in trace_contours(mask)]
    assert np.array_equal(fill_contours(polygons, mask.shape), mask)


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((5, 8), dtype=bool),
        np.indices((7, 10)).sum(axis=0) % 2 == 0,
        np.indices((7, 10)).sum(axis=0) % 2 == 1,
        np.eye(6, 9, dtype=bool),
        np.ones((1, 1), dtype=bool),
        np.ones((1, 7), dtype=bool),
        np.pad(np.pad(np.pad(np.ones((3, 4), dtype=bool), 1), 1, constant_values=True), ((1, 0), (0, 2))),
    ],
    ids=["full", "checkerboard", "other-checkerboard", "diagonal", "one-pixel", "one-row", "island-in-hole"],
)
def test_awkward_masks_survive(mask: np.ndarray) -> None:
    assert np.array_equal(fill_contours(trace_contours(mask), mask.shape), mask)


def test_an_empty_mask_has_no_contour_and_no_contour_fills_to_an_empty_mask() -> None:
    assert trace_contours(np.zeros((4, 6), dtype=bool)) == []
    assert locate(fill_contours([], (4, 6))) == set()
    assert fill_contours([], (4, 6)).shape == (4, 6)


# ---- tracing ---------------------------------------------------------------------------------------------------------


def test_one_pixel_is_traced_as_a_diamond_in_column_row_order() -> None:
    mask = np.zeros((4, 9), dtype=bool)
    mask[1, 6] = True
    (diamond,) = trace_contours(mask)
    assert {tuple(point) for point in diamond.tolist()} == {(5.5, 1), (6, 0.5), (6.5, 1), (6, 1.5)}


def test_straight_edges_keep_only_their_corners() -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[3:21, 5:37] = True
    (outline,) = trace_contours(mask)
    assert len(outline) == 8  # four edges and four corners cut at 45 degrees
    assert outline.min(axis=0).tolist() == [4.5, 2.5]
    assert outline.max(axis=0).tolist() == [36.5, 20.5]


def test_a_hole_is_a_contour_of_its_own() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[1:8, 2:11] = True
    mask[3:5, 4:6] = False
    outer, hole = sorted(trace_contours(mask), key=lambda points: points[:, 0].min())
    assert outer[:, 0].min() == 1.5
    assert (hole.min(axis=0).tolist(), hole.max(axis=0).tolist()) == ([3.5, 2.5], [5.5, 4.5])


# ---- filling ---------------------------------------------------------------------------------------------------------


def test_a_pixel_belongs_where_its_centre_lies_inside() -> None:
    triangle = np.array([(0.9, 0.9), (5.0, 0.9), (0.9, 5.0)])  # column + row < 5.9
    expected = {(row, column) for row in range(1, 8) for column in range(1, 7) if row + column <= 5}
    assert locate(fill_contours([triangle], (8, 7))) == expected


def test_left_and_upper_edges_belong_right_and_lower_ones_do_not() -> None:
    assert locate(fill_contours([box(2, 1, 4, 3)], (6, 7))) == {(1, 2), (1, 3), (2, 2), (2, 3)}


@settings(max_examples=100, deadline=None)
@given(st.integers(-4, 19), st.integers(-4, 19), st.booleans())
def test_contours_that_touch_never_share_and_never_leave_out_a_pixel(left: int, right: int, is_turned: bool) -> None:
    """A box in two parts on either side of an edge, which runs through many centres of pixels."""
    upper = np.array([(-5, -5), (20, -5), (20, right), (-5, left)], dtype=float)
    lower = np.array([(20, 20), (-5, 20), (-5, left), (20, right)], dtype=float)
    parts = [part[:, ::-1] if is_turned else part for part in (upper, lower)]
    first, second = (fill_contours([part], (15, 16)) for part in parts)
    assert not (first & second).any()
    assert (first | second).all()
    assert fill_contours(parts, (15, 16)).all()


def test_nested_contours_alternate_between_inside_and_outside() -> None:
    mask = fill_contours([box(0.5, 0.5, 9.5, 9.5), box(2.5, 2.5, 7.5, 7.5), box(4.5, 4.5, 5.5, 5.5)], (11, 12))
    expected = np.zeros((11, 12), dtype=bool)
    expected[1:10, 1:10], expected[3:8, 3:8], expected[5, 5] = True, False, True
    assert np.array_equal(mask, expected)


def test_a_keyhole_is_a_hole() -> None:
    """One polygon runs in along a channel without width, round the hole, and out along the same channel."""
    keyhole = np.array(
        [
            *[(0.5, 0.5), (0.5, 8.5), (10.5, 8.5), (10.5, 0.5), (4.2, 0.5)],
            *[(3.5, 2.5), (7.5, 2.5), (7.5, 5.5), (3.5, 5.5), (3.5, 2.5), (4.2, 0.5)],
        ]
    )
    expected = np.zeros((10, 12), dtype=bool)
    expected[1:9, 1:11], expected[3:6, 4:8] = True, False
    assert np.array_equal(fill_contours([keyhole], (10, 12)), expected)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("start", [0, 2])
def test_direction_start_and_a_repeated_first_point_change_nothing(direction: int, start: int) -> None:
    points = np.array([(1.2, 0.4), (8.3, 2.1), (6.6, 7.9), (2.2, 6.1)])
    variant = np.roll(points, start, axis=0)[::direction]
    rows, columns = np.indices((9, 10))
    edges = zip(points, np.roll(points, -1, axis=0), strict=True)
    expected = np.all([(x1 - x) * (rows - y) > (y1 - y) * (columns - x) for (x, y), (x1, y1) in edges], axis=0)
    assert np.array_equal(fill_contours([variant], (9, 10)), expected)
    assert np.array_equal(fill_contours([np.vstack([variant, variant[:1]])], (9, 10)), expected)


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        (box(-50, -50, 80, 80), {(row, column) for row in range(4) for column in range(5)}),
        (box(-9, 0.5, 1.5, 2.5), {(1, 0), (2, 0), (1, 1), (2, 1)}),
        (box(2.5, -7, 1e12, 0.5), {(0, 3), (0, 4)}),
        (box(5.5, 0.5, 9, 3), set()),
        (box(-9, 0.5, -2, 3), set()),
        (box(1, 8, 3, 9), set()),
    ],
)
def test_what_lies_outside_the_slice_is_cut_off(polygon: np.ndarray, expected: set[tuple[int, int]]) -> None:
    assert locate(fill_contours([polygon], (4, 5))) == expected


@pytest.mark.parametrize("points", [[(2, 3)], [(2, 3), (5, 1)], [(1, 1), (4, 4), (2, 2)], np.zeros((0, 2))])
def test_polygons_without_area_enclose_nothing(points: list[tuple[float, float]]) -> None:
    assert locate(fill_contours([np.array(points, dtype=float).reshape(-1, 2)], (6, 6))) == set()


def test_a_corner_meant_for_a_pixel_centre_is_one_in_spite_of_rounding() -> None:
    exact = box(2, 1, 4, 3)
    for noise in (1e-9, -1e-9):
        assert np.array_equal(fill_contours([exact + noise], (6, 7)), fill_contours([exact], (6, 7)))
