"""Masks of one slice to polygons and back, so that what was traced fills to the very same pixels.

Coordinates are ``(column, row)`` in pixels; the centre of pixel ``mask[r, c]`` is ``(c, r)``. All polygons of a slice
are filled together by the even-odd rule (every crossing of an outline changes between outside and inside), which makes
holes, keyholes and islands in holes work without knowing which contour is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

_DECIMALS = 6
"""Pixel coordinates are rounded to these before filling: a corner that was meant to lie on a pixel's centre does so,
although it went through millimetres, decimal strings and a matrix."""


def fill_contours(polygons: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """Fill the polygons of one slice together by the even-odd rule.

    A pixel belongs to the mask where its centre lies inside. A centre exactly on an outline belongs to it where the
    outline is a left or an upper edge, not where it is a right or a lower one; so polygons that share an edge never
    claim a pixel twice, and never leave one out.

    Args:
        polygons: ``(V, 2)`` each, ``(column, row)`` in pixels, finite; closed by themselves, a repeated first point
            changes nothing. Parts outside the slice are cut off.
        shape: Rows and columns of the slice.

    Returns:
        ``(rows, columns)``; all False for no polygons, and for polygons without an area.
    """
    mask = np.zeros(shape, dtype=bool)
    rows, columns = _find_crossings(polygons, shape)
    if rows.size == 0:
        return mask
    # Only the box that the polygons span is touched: structures are small, slices are not.
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, min(int(columns.max()) + 1, shape[1]) - left
    changes = np.bincount((rows - top) * (width + 1) + columns - left, minlength=height * (width + 1))
    is_change = (changes & 1).astype(bool).reshape(height, width + 1)[:, :width]
    mask[top : top + height, left : left + width] = np.logical_xor.accumulate(is_change, axis=1)
    return mask


def trace_contours(mask: Mask) -> list[Points]:
    """Outline the mask of one slice half way between pixels in and out, corners cut at 45 degrees.

    `fill_contours` gives the mask back exactly, for every mask: the outlines cross the line between two neighbouring
    centres once, in its middle, where the two differ, and nowhere else.

    Args:
        mask: ``(rows, columns)`` bool.

    Returns:
        Closed polygons ``(V, 2)``, ``(column, row)`` in pixels, at least four corners each, the first not repeated;
        outlines of holes are polygons of their own. No polygon for an empty mask.
    """
    from contourpy import contour_generator

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return []
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
    lines: Any = contour_generator(z=box).lines(0.5)
    corner = np.array([columns[0] - 1, rows[0] - 1])
    return [_drop_collinear(line[:-1] + corner) for line in lines]


def _find_crossings(polygons: Sequence[Points], shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and first column behind each place where an outline crosses a line of pixel centres."""
    edges = _list_edges(polygons)  # (E, 2, 2), the end with the smaller row first
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    # Rows with y0 <= row < y1: a corner on a row counts for one of the two edges that meet there, or for none or both.
    first = np.clip(np.ceil(y0), 0, shape[0]).astype(np.intp)
    counts = np.clip(np.ceil(y1), 0, shape[0]).astype(np.intp) - first
    edge = np.repeat(np.arange(len(edges)), counts)
    rows = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    x = np.round(x0[edge] + (rows - y0[edge]) * slope, _DECIMALS)
    columns = np.clip(np.ceil(x), 0, shape[1]).astype(np.intp)
    return rows, columns


def _list_edges(polygons: Sequence[Points]) -> Points:
    """The edges ``(E, 2, 2)`` that are not level, each from its smaller to its larger row.

    The same edge gives the same crossings to the last bit, whichever way round a polygon runs through it.
    """
    closed = [np.round(np.asarray(points, dtype=np.float64), _DECIMALS) for points in polygons if len(points)]
    if not closed:
        return np.zeros((0, 2, 2))
    starts = np.concatenate(closed)
    ends = np.concatenate([np.roll(points, -1, axis=0) for points in closed])
    is_rising = (starts[:, 1] < ends[:, 1])[:, None]
    edges = np.stack([np.where(is_rising, starts, ends), np.where(is_rising, ends, starts)], axis=1)
    is_level: Mask = starts[:, 1] == ends[:, 1]
    kept: Points = edges[~is_level]
    return kept


def _drop_collinear(points: Points) -> Points:
    """Keep the corners only; the steps between the points of a traced outline are halves, so the test is exact."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners: Points = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return corners
