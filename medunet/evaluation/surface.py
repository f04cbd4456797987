"""How far apart the surfaces of two masks lie, in millimetres: computed once per structure, with small readers on top.

Two kinds of surface can be measured. *Elements*: the pieces of surface between voxels, each with its area, as in
DeepMind's surface distances (Nikolov et al. 2021, https://doi.org/10.2196/26151); a slanted wall weighs what it is large.
*Voxels*: the outermost voxels of a mask, each counted once, as in MONAI. A picture, which has one slice, has a contour in
place of a surface.

Distances are exact Euclidean ones between the places of the pieces. Near pieces are looked up in a k-d tree, far ones in a
distance transform of the box that holds both masks (Felzenszwalb and Huttenlocher 2012,
https://doi.org/10.4086/toc.2012.v008a019), whose squares are float32: these are right to about 1e-7 of themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import edt  # type: ignore[import-not-found]  # compiled, without type information
import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError
from medunet.evaluation.surface_area import FULL_CUBE, FULL_SQUARE, compute_cube_areas, compute_square_lengths
from medunet.volume import Array, Spacing

SurfaceKind: TypeAlias = Literal["elements", "voxels"]
Box: TypeAlias = tuple[slice, slice, slice]

_TOLERANCE_SLACK = 1 + 1e-6
"""A distance that is the tolerance but for rounding is within it."""
_REACH_FINE, _REACH_COARSE = 10, 3
"""How far the tree is asked, in voxels of the finest and of the coarsest axis; the larger one counts."""
_VOXELS_PER_PIECE, _VOXELS_PER_FAR_PIECE = 10, 250
"""A piece takes the tree about as long as this many voxels take a distance transform; a far one at most this many."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SurfaceDistances:
    """From every piece of each surface to the nearest of the other one; each side sorted by distance.

    Attributes:
        kind: ``"elements"`` or ``"voxels"``.
        from_reference_mm: ``(R,)`` distances from the reference's surface.
        from_prediction_mm: ``(P,)`` distances from the prediction's surface.
        reference_sizes: ``(R,)`` areas in mm² (lengths in mm in a picture); 1 for each boundary voxel.
        prediction_sizes: ``(P,)`` the same of the prediction.
    """

    kind: SurfaceKind
    from_reference_mm: NDArray[np.float64]
    from_prediction_mm: NDArray[np.float64]
    reference_sizes: NDArray[np.float64]
    prediction_sizes: NDArray[np.float64]

    @property
    def total_size(self) -> float:
        """Both surfaces together."""
        return float(self.reference_sizes.sum() + self.prediction_sizes.sum())


def compute_surface_distances(
    reference: Array, prediction: Array, spacing: Spacing, *, kind: SurfaceKind = "elements"
) -> SurfaceDistances | None:
    """Measure the surfaces of two masks of one structure.

    Args:
        reference: ``(I, J, K)`` bool.
        prediction: ``(I, J, K)`` bool.
        spacing: In mm. One axis of length 1 makes it a picture, measured within its plane.
        kind: What counts as surface.

    Returns:
        The distances; None when a side is empty, because there is nothing to measure to.

    Raises:
        GeometryError: If the shapes differ.

    Example:
        >>> reference, prediction = np.zeros((2, 5, 4, 9), dtype=bool)
        >>> reference[:, :, 2], prediction[:, :, 5] = True, True
        >>> distances = compute_surface_distances(reference, prediction, (1.0, 1.0, 2.5), kind="voxels")
        >>> compute_hausdorff_mm(distances)
        7.5
    """
    if reference.shape != prediction.shape:
        msg = f"The reference has the shape {reference.shape}, the prediction {prediction.shape}; expected the same."
        raise GeometryError(msg)
    box = find_union_box(reference, prediction)
    if box is None:
        return None
    flat_axis = find_flat_axis(reference.shape)
    return measure_surfaces(reference[box] != 0, prediction[box] != 0, spacing, flat_axis=flat_axis, kind=kind)


def find_flat_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of a picture that has one slice; None for volumes, and for rows of voxels, which count as volumes."""
    flat = [axis for axis, length in enumerate(shape) if length == 1]
    return flat[0] if len(flat) == 1 else None


def find_union_box(reference: Array, prediction: Array) -> Box | None:
    """The smallest box that holds both masks; None when either is empty."""
    edges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        is_occupied = [mask.any(axis=others) for mask in (reference, prediction)]
        if not (is_occupied[0].any() and is_occupied[1].any()):
            return None
        inside = np.flatnonzero(is_occupied[0] | is_occupied[1])
        edges.append(slice(int(inside[0]), int(inside[-1]) + 1))
    i, j, k = edges
    return i, j, k


def measure_surfaces(
    reference: Array, prediction: Array, spacing: Spacing, *, flat_axis: int | None, kind: SurfaceKind
) -> SurfaceDistances:
    """`compute_surface_distances` of masks that are cropped to a box that holds both, and hold a voxel each.

    Args:
        reference: ``(I, J, K)`` bool.
        prediction: ``(I, J, K)`` bool.
        spacing: In mm.
        flat_axis: Axis along which the whole image has one slice, see `find_flat_axis`; a crop does not show it.
        kind: What counts as surface.
    """
    lengths: tuple[float, ...] = spacing
    if flat_axis is not None:
        reference, prediction = reference.take(0, flat_axis), prediction.take(0, flat_axis)
        lengths = tuple(mm for axis, mm in enumerate(spacing) if axis != flat_axis)
    find_surface = _find_elements if kind == "elements" else _find_boundary
    reference_surface, reference_sizes = find_surface(reference, lengths)
    prediction_surface, prediction_sizes = find_surface(prediction, lengths)
    from_reference_mm = _measure_distances(reference_surface, prediction_surface, lengths)
    from_prediction_mm = _measure_distances(prediction_surface, reference_surface, lengths)
    reference_order, prediction_order = np.argsort(from_reference_mm), np.argsort(from_prediction_mm)
    return SurfaceDistances(
        kind=kind,
        from_reference_mm=from_reference_mm[reference_order],
        from_prediction_mm=from_prediction_mm[prediction_order],
        reference_sizes=reference_sizes[reference_order],
        prediction_sizes=prediction_sizes[prediction_order],
    )


# ---- readers ---------------------------------------------------------------------------------------------------------


def compute_hausdorff_mm(distances: SurfaceDistances, percentile: float = 100.0) -> float:
    """Hausdorff distance, or a percentile of it: the larger one of the two sides.

    Elements: the smallest distance within which the given share of the surface lies. Voxels: the percentile, between two
    distances linearly, as MONAI.

    Args:
        distances: From `compute_surface_distances`.
        percentile: 0 to 100; 100 is the Hausdorff distance.
    """
    sides = (
        (distances.from_reference_mm, distances.reference_sizes),
        (distances.from_prediction_mm, distances.prediction_sizes),
    )
    if distances.kind == "voxels":
        return max(float(np.quantile(mm, percentile / 100)) for mm, _ in sides)
    return max(_find_weighted_quantile(mm, sizes, percentile / 100) for mm, sizes in sides)


def compute_assd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: the mean over both surfaces together, by their size."""
    return _average(distances, 1)


def compute_rmsd_mm(distances: SurfaceDistances) -> float:
    """Root of the mean squared distance over both surfaces together; far pieces count more than in the ASSD."""
    return float(np.sqrt(_average(distances, 2)))


def compute_nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface distance (surface Dice): the share of both surfaces that lies within a tolerance of the other.

    Args:
        distances: From `compute_surface_distances`.
        tolerance_mm: Distances up to and including this are no error.

    Returns:
        0 to 1.
    """
    within_mm = tolerance_mm * _TOLERANCE_SLACK
    near = distances.reference_sizes[: np.searchsorted(distances.from_reference_mm, within_mm, "right")].sum()
    near += distances.prediction_sizes[: np.searchsorted(distances.from_prediction_mm, within_mm, "right")].sum()
    return float(near / distances.total_size)


def _find_weighted_quantile(distances_mm: Array, sizes: Array, share: float) -> float:
    shares = np.cumsum(sizes) / sizes.sum()
    return float(distances_mm[min(int(np.searchsorted(shares, share)), len(shares) - 1)])


def _average(distances: SurfaceDistances, power: int) -> float:
    total = (distances.from_reference_mm**power * distances.reference_sizes).sum()
    total += (distances.from_prediction_mm**power * distances.prediction_sizes).sum()
    return float(total / distances.total_size)


# ---- surfaces --------------------------------------------------------------------------------------------------------


def _find_elements(mask: Array, spacing: tuple[float, ...]) -> tuple[Array, Array]:
    """Where cubes of 2x2x2 voxels (squares of 2x2 pixels) are cut by the surface, and the sizes of the cuts.

    ```text
    voxels        0 1 1 0       one zero is put before and behind them
    cubes        0-1-1-1-0      cube n lies between the voxels n - 1 and n
    surface       x . x         a cube that is neither empty nor full
    ```
    """
    codes: Array = np.pad(mask, 1).view(np.uint8)
    for axis in reversed(range(mask.ndim)):  # the last axis is the lowest bit
        lower, upper = _pair(codes, axis)
        codes = np.left_shift(lower, 2 ** (mask.ndim - 1 - axis))
        codes |= upper
    full = FULL_CUBE if mask.ndim == 3 else FULL_SQUARE
    surface = (codes - np.uint8(1)) < full - 1  # 0 wraps around to 255: one comparison for both ends
    i, *rest = spacing
    table = compute_cube_areas((i, rest[0], rest[1])) if len(rest) == 2 else compute_square_lengths((i, rest[0]))
    return surface, table[codes[surface]]


def _pair(codes: Array, axis: int) -> tuple[Array, Array]:
    """All but the last, and all but the first along an axis."""
    before: list[Any] = [slice(None)] * codes.ndim
    behind = list(before)
    before[axis], behind[axis] = slice(None, -1), slice(1, None)
    return codes[tuple(before)], codes[tuple(behind)]


def _find_boundary(mask: Array, spacing: tuple[float, ...]) -> tuple[Array, Array]:
    """Voxels with a neighbour outside beyond one of their faces; the border of the image is outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        before, behind = _pair(mask, axis)
        inner_before, inner_behind = _pair(inner, axis)
        inner_before &= behind
        inner_behind &= before
        edge: list[Any] = [slice(None)] * mask.ndim
        for end in (0, -1):
            edge[axis] = end
            inner[tuple(edge)] = False
    surface = mask & ~inner
    return surface, np.ones(int(np.count_nonzero(surface)))


def _measure_distances(surface: Array, other: Array, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """From every piece of a surface to the nearest of the other one, in the order of the voxels.

    Most pieces lie near the other surface: a tree of its pieces finds these, which are few beside the voxels of the box.
    Far pieces make it slow, so that it gives up at some distance, and a distance transform of the box measures the rest.
    """
    from scipy.spatial import KDTree

    is_apart = ~other[surface]  # the others are pieces of both surfaces
    distances = np.zeros(len(is_apart))
    num_pieces = max(np.count_nonzero(is_apart), np.count_nonzero(other))
    if num_pieces * _VOXELS_PER_PIECE > other.size:  # a ragged mask is nearly all surface
        distances[is_apart] = _transform(other, spacing)[surface][is_apart]
        return distances
    tree = KDTree(np.argwhere(other) * np.array(spacing), leafsize=32, balanced_tree=False, compact_nodes=False)
    places = np.argwhere(surface & ~other) * np.array(spacing)
    reach_mm = max(_REACH_FINE * min(spacing), _REACH_COARSE * max(spacing))
    apart_mm = tree.query(places, distance_upper_bound=reach_mm)[0]
    is_far = np.isinf(apart_mm)
    if np.count_nonzero(is_far) * _VOXELS_PER_FAR_PIECE < other.size:
        apart_mm[is_far] = tree.query(places[is_far])[0]
    else:
        apart_mm[is_far] = _transform(other, spacing)[surface][is_apart][is_far]
    distances[is_apart] = apart_mm
    return distances


def _transform(surface: Array, spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """The distance of every voxel to the nearest piece of a surface."""
    squared: NDArray[np.float32] = edt.edtsq(np.ascontiguousarray(~surface), anisotropy=spacing, parallel=1)
    return np.sqrt(squared, out=squared)
