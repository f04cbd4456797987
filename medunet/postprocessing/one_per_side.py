"""Paired organs: one connected part on each side of the patient, under the name of its side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunet.postprocessing.parts import find_parts
from medunet.volume import Affine, Array

_MAX_ACROSS = 0.1  # of a part that touches the other side's organ


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What was found on the two sides of a patient.

    Attributes:
        left: ``(I, J, K)`` bool.
        right: The same.
        problem: Why the two are what they were; empty where they were sorted.
    """

    left: Array
    right: Array
    problem: str = ""


def sort_sides(left: Array, right: Array, affine: Affine) -> Sides:
    """Keep the largest connected part on each side, whatever each voxel was called.

    The middle lies halfway between the centres of the two masks along the axis from left to right. A part belongs to the
    side on which its centre lies. Nothing is sorted where one of the two is empty, where the left centre lies right of the
    right one, or where the largest part of a side reaches across the middle with more than a tenth of its voxels: then the
    two organs touch, and no part says where one ends.

    Args:
        left: ``(I, J, K)`` bool.
        right: The same; they share no voxel.
        affine: From voxels to RAS+ mm.
    """
    if not left.any() or not right.any():
        return Sides(left=left, right=right, problem="one of the two sides is empty")
    x = _compute_x(left.shape, affine)
    centres = float(x[left].mean()), float(x[right].mean())
    if centres[0] >= centres[1]:
        return Sides(left=left, right=right, problem="the left one lies right of the right one")
    is_right = x > sum(centres) / 2
    parts, sizes = find_parts((left | right).astype(np.uint8))
    num_parts = len(sizes)
    mean_x = np.bincount(parts.ravel(), weights=x.ravel(), minlength=num_parts) / np.maximum(sizes, 1)
    num_right = np.bincount(parts[is_right], minlength=num_parts)
    of_right = mean_x > sum(centres) / 2
    found = []
    for is_side, num_across in ((~of_right, num_right), (of_right, sizes - num_right)):
        candidates = np.flatnonzero(is_side[1:]) + 1
        if not candidates.size:
            return Sides(left=left, right=right, problem="the two sides touch")
        largest = candidates[np.argmax(sizes[candidates])]
        if num_across[largest] > _MAX_ACROSS * sizes[largest]:
            return Sides(left=left, right=right, problem="the two sides touch")
        found.append(parts == largest)
    return Sides(left=found[0], right=found[1])


def _compute_x(shape: tuple[int, ...], affine: Affine) -> Array:
    """Millimetres towards the patient's right, ``(I, J, K)``, up to a constant."""
    i, j, k = np.ogrid[tuple(slice(length) for length in shape)]
    x: Array = affine[0, 0] * i + affine[0, 1] * j + affine[0, 2] * k
    return x
