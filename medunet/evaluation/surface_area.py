"""Area of the surface within a cube of 2x2x2 voxels, for each of its 256 patterns; and its flat form, 2x2 and 16.

The centres of eight voxels are the corners of a cube. Marching cubes (Lorensen and Cline 1987,
https://doi.org/10.1145/37401.37422) puts a vertex in the middle of every edge between a voxel that is inside and one that
is not, joins the vertices on each face, and fills the loops that arise with triangles. Two choices are left open there,
and made as in DeepMind's surface distances (Nikolov et al. 2021, https://doi.org/10.2196/26151), so that the numbers can
be compared: on a face with two opposite corners inside, the corners of the kind that is rarer in the cube are cut off;
and of the fans of triangles that fill a loop, the one with the largest area between voxels of 1 mm is taken.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

from medunet.volume import Array, Spacing

FULL_CUBE = 255
FULL_SQUARE = 15

Corner = tuple[int, int, int]
Point = tuple[float, float, float]

_CORNERS: tuple[Corner, ...] = tuple(itertools.product((0, 1), repeat=3))  # type: ignore[arg-type]
"""In the order of the bits, the highest first: a voxel further along K is a lower bit, then along J, then along I."""


def compute_cube_areas(spacing: Spacing) -> NDArray[np.float64]:
    """Surface in mm² within a cube for each code of its corners.

    Args:
        spacing: In mm.

    Returns:
        ``(256,)``; 0 for the codes 0 and 255. Code: 128 for the corner ``(0, 0, 0)``, 64 for ``(0, 0, 1)``, ..., 1 for
        ``(1, 1, 1)``.

    Example:
        >>> compute_cube_areas((1.0, 2.0, 3.0))[0b11110000].tolist()  # a wall across I
        6.0
    """
    i, j, k = spacing
    scale = np.array([j * k, i * k, i * j])  # of the components of a cross product when the axes are stretched
    codes, vectors = _list_area_vectors()
    return np.bincount(codes, np.linalg.norm(vectors * scale, axis=1), minlength=256).astype(np.float64)


def compute_square_lengths(spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Length of the contour in mm within a square of 2x2 pixels for each code of its corners.

    Args:
        spacing: Of the two axes, in mm.

    Returns:
        ``(16,)``; 0 for the codes 0 and 15. Code: 8 for the corner ``(0, 0)``, 4 for ``(0, 1)``, 2 and 1 for the others.

    Example:
        >>> compute_square_lengths((3.0, 4.0))[[0b1000, 0b1100, 0b1010, 0b1001]].tolist()
        [2.5, 4.0, 3.0, 5.0]
    """
    first, second = spacing
    slanted = float(np.hypot(first, second)) / 2
    lengths = np.full(16, slanted)  # one corner differs from the three others
    lengths[[0, FULL_SQUARE]] = 0
    lengths[[0b1100, 0b0011]] = second
    lengths[[0b1010, 0b0101]] = first
    lengths[[0b1001, 0b0110]] = 2 * slanted
    return lengths


@functools.cache
def _list_area_vectors() -> tuple[Array, Array]:
    """The triangles of all codes: code ``(T,)``, and normal ``(T, 3)``, as long as the area between voxels of 1 mm."""
    fans = [(code, _fill_with_largest_fan(loop)) for code in range(256) for loop in _find_loops(code)]
    return np.repeat([code for code, _ in fans], [len(fan) for _, fan in fans]), np.concatenate(
        [fan for _, fan in fans]
    )


def _find_loops(code: int) -> list[list[Point]]:
    """The closed lines of vertices in which a surface crosses the faces of a cube."""
    neighbours: dict[Point, list[Point]] = {}
    for one, other in _join_vertices(code):
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    loops, seen = [], set()
    for start in neighbours:
        loop = []
        point: Point | None = start
        while point is not None and point not in seen:
            loop.append(point)
            seen.add(point)
            point = next((other for other in neighbours[point] if other not in seen), None)
        if loop:
            loops.append(loop)
    return loops


def _join_vertices(code: int) -> list[tuple[Point, Point]]:
    """The straight lines on the six faces."""
    is_inside = {corner: bool(code >> (7 - bit) & 1) for bit, corner in enumerate(_CORNERS)}
    rarer = sum(is_inside.values()) <= 4
    lines = []
    for axis, side in itertools.product(range(3), (0, 1)):
        ring = _list_face(axis, side)
        edges = [_find_middle(ring[n], ring[(n + 1) % 4]) for n in range(4)]
        crossed = [edges[n] for n in range(4) if is_inside[ring[n]] != is_inside[ring[(n + 1) % 4]]]
        if len(crossed) == 2:
            lines.append((crossed[0], crossed[1]))
        elif crossed:
            lines += [(edges[n - 1], edges[n]) for n in range(4) if is_inside[ring[n]] == rarer]
    return lines


def _list_face(axis: int, side: int) -> list[Corner]:
    """The corners of a face, one after the other around it."""
    corners = []
    for one, other in ((0, 0), (1, 0), (1, 1), (0, 1)):
        corner = [one, other]
        corner.insert(axis, side)
        corners.append((corner[0], corner[1], corner[2]))
    return corners


def _find_middle(one: Corner, other: Corner) -> Point:
    i, j, k = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return i, j, k


def _fill_with_largest_fan(loop: list[Point]) -> Array:
    """The area vectors of the triangles between a vertex of a loop and its edges, for the vertex that gives most."""
    around = np.array(loop)[(np.arange(len(loop))[:, None] + np.arange(len(loop))) % len(loop)]  # (starts, points, 3)
    spokes = around[:, 1:] - around[:, :1]
    one, other = spokes[:, :-1], spokes[:, 1:]
    fans = (
        one[..., [1, 2, 0]] * other[..., [2, 0, 1]] - one[..., [2, 0, 1]] * other[..., [1, 2, 0]]
    ) / 2  # cross products
    totals = np.sqrt((fans**2).sum(axis=2)).sum(axis=1)
    best: Array = fans[totals.round(9).argmax()]
    return best
