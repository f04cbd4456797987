"""Weights that make narrow gaps between objects count: the map of the U-Net paper (Ronneberger 2015, arXiv:1505.04597).

``1 + w0 * exp(-(d1 + d2)^2 / (2 sigma^2))`` with the distances d1 and d2 of a voxel to the nearest and the second nearest
object, 0 within it. Distances are in *voxels of the patch*, between centres, as the paper's are in pixels. Objects are the
connected components (26 neighbours) of each label, or of each region. A patch with fewer than two objects weighs 1. The
paper's other factor, the balance of classes, is left out. Of a task with instances the objects are the bodies of its things:
the border between two that touch is the gap that must be learnt, and stuff is a background like any other. Farther than four
sigma the second object is taken as absent: the weight is then below ``1 + 0.0034 w0 / 10``.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import edt  # type: ignore[import-not-found]  # compiled, without type information
import numpy as np
import torch
from torch import Tensor

from medunet.tasks import IGNORE_CODE
from medunet.volume import Array

BOUNDARY_WEIGHT = 10.0
SIGMA_VOXELS = 5.0
_REACH = 4


def weigh_class_boundaries(codes: Tensor, *, gaps: Sequence[int] = ()) -> Tensor:
    """Weights ``(B, 1, I, J, K)`` from codes ``(B, I, J, K)`` uint8, on their device.

    The map is computed on the CPU: on a GPU this waits for the copy, unlike everything else in a loss.

    Args:
        codes: Of patches.
        gaps: Codes that are no objects but lie between them, as the background does.
    """
    labels = codes.masked_fill(codes == IGNORE_CODE, 0).cpu().numpy()
    if gaps:
        labels = np.where(np.isin(labels, gaps), np.uint8(0), labels)
    weights = np.stack([compute_boundary_weights(_find_objects(patch)) for patch in labels])
    return torch.from_numpy(weights).unsqueeze(1).to(codes.device)


def weigh_region_boundaries(codes: Tensor, membership: Tensor) -> Tensor:
    """Weights ``(B, regions, I, J, K)``, each from the objects of one region; see `weigh_class_boundaries`."""
    labels = codes.cpu().numpy()
    table = np.zeros((len(membership), 256), dtype=np.uint8)  # the code 255 is in no region
    table[:, : membership.shape[1]] = membership.cpu().numpy() > 0
    maps = [[compute_boundary_weights(_find_objects(row[patch])) for row in table] for patch in labels]
    return torch.from_numpy(np.stack([np.stack(regions) for regions in maps])).to(codes.device)


def compute_boundary_weights(
    objects: Array, *, boundary_weight: float = BOUNDARY_WEIGHT, sigma_voxels: float = SIGMA_VOXELS
) -> Array:
    """The weight of each voxel.

    Args:
        objects: ``(I, J, K)``: 0, and the number of the object from 1 on.
        boundary_weight: The paper's ``w0``: what the gap between two touching objects counts more.
        sigma_voxels: How fast that fades.

    Returns:
        float32 ``(I, J, K)``, from 1 to ``1 + boundary_weight``.
    """
    reach = _REACH * sigma_voxels
    nearest = np.full(objects.shape, np.inf, dtype=np.float32)
    second = nearest.copy()
    for number, box in enumerate(_find_boxes(objects, int(np.ceil(reach))), start=1):
        distances = edt.edt(objects[box] != number)
        second[box] = np.minimum(second[box], np.maximum(nearest[box], distances))
        nearest[box] = np.minimum(nearest[box], distances)
    sums = np.where(second <= reach, nearest + second, np.inf)
    weights: Array = 1 + boundary_weight * np.exp(-(sums**2) / (2 * sigma_voxels**2))
    return weights.astype(np.float32)


def _find_objects(labels: Array) -> Array:
    objects: Array = cc3d.connected_components(np.ascontiguousarray(labels), connectivity=26)
    return objects


def _find_boxes(objects: Array, margin: int) -> list[tuple[slice, ...]]:
    """The box around each object; what lies farther away than the margin does not matter to it."""
    boxes = cc3d.statistics(objects)["bounding_boxes"][1:]  # the first is background
    return [tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box) for box in boxes]
