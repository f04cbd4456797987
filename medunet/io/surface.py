"""The surface of a mask as triangles in RAS+ mm.

Marching cubes (Lorensen and Cline, doi:10.1145/37401.37422) in the form of Lewiner and others
(doi:10.1080/10867651.2003.10487582), which leaves no holes; the surface runs half way between voxel centres within and without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.volume import Affine, Array

_SHRINK, _GROW = 0.5, -0.53
"""Taubin's two steps (doi:10.1145/218380.218473): the second takes back the volume that the first loses."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Surface:
    """Triangles around a mask.

    Attributes:
        points: ``(N, 3)`` float64, RAS+ mm.
        triangles: ``(M, 3)`` int32 into ``points``, counter-clockwise seen from outside. Every edge belongs to an even
            number of them, nearly always two: the surface is closed.
    """

    points: NDArray[np.float64]
    triangles: NDArray[np.int32]


def build_surface(mask: Array, affine: Affine, *, num_smoothings: int = 0) -> Surface:
    """The closed surface of a mask.

    Args:
        mask: ``(I, J, K)`` bool. What touches the border is closed there.
        affine: Voxel index to world, RAS+ mm.
        num_smoothings: Rounds of Taubin's smoothing, which takes the steps off and keeps the volume; thin structures may
            cross themselves.

    Returns:
        Without points and triangles where the mask is empty.
    """
    box = _find_box(mask)
    if box is None:
        return Surface(points=np.zeros((0, 3)), triangles=np.zeros((0, 3), np.int32))
    from skimage.measure import marching_cubes  # takes a while to import

    # One voxel of nothing around it, so that the surface is closed.
    points, triangles, _, _ = marching_cubes(np.pad(mask[box], 1).astype(np.float32), 0.5)
    points = points.astype(np.float64) + [part.start - 1 for part in box]
    points = points @ affine[:3, :3].T + affine[:3, 3]
    if np.linalg.det(affine[:3, :3]) > 0:
        triangles = triangles[:, ::-1]  # scikit-image's face inwards, and mirrored axes turn them inside out
    if num_smoothings:
        points = _smooth(points, triangles, num_smoothings)
    return Surface(points=points, triangles=np.ascontiguousarray(triangles, np.int32))


def compute_surface_volume_mm3(surface: Surface) -> float:
    """The enclosed volume, by the divergence theorem; negative where the triangles face inwards."""
    corners = surface.points[surface.triangles]  # (M, 3, 3)
    corners = corners - (surface.points.mean(axis=0) if len(surface.points) else 0)  # near 0 for the sake of rounding
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def compute_surface_area_mm2(surface: Surface) -> float:
    """The sum of the triangles' areas."""
    a, b, c = np.moveaxis(surface.points[surface.triangles], 1, 0)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def _find_box(mask: Array) -> tuple[slice, slice, slice] | None:
    """The smallest box around a mask; None where it is empty."""
    parts: list[slice] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if not len(found):
            return None
        part = slice(int(found[0]), int(found[-1]) + 1)
        mask = mask[(slice(None),) * axis + (part,)]  # what follows looks at less
        parts.append(part)
    i, j, k = parts
    return i, j, k


def _smooth(points: NDArray[np.float64], triangles: Array, num_rounds: int) -> NDArray[np.float64]:
    """Move each point towards the middle of its neighbours and back out again."""
    from scipy.sparse import coo_array

    start, end = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).T
    pairs = coo_array((np.ones(len(start)), (start, end)), shape=(len(points), len(points))).tocsr()
    neighbours = ((pairs + pairs.T) > 0).astype(np.float64)
    num_neighbours = neighbours.sum(axis=1)[:, None]
    for _ in range(num_rounds):
        for step in (_SHRINK, _GROW):
            points = points + step * (neighbours @ points / num_neighbours - points)
    return points
