"""Rotation, zoom, elastic deformation and mirroring of a patch in one interpolation, in plain torch.

Everything is drawn before anything is read (`sample_spatial`), so only the box that the change needs is read
(`compute_source_box`), and the patch is interpolated once (`apply_spatial`). Coordinates are in voxels relative to the
patch's centre; rotations act in millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation.factors import sample_factors
from medunet.augmentation.policy import AugmentationPolicy
from medunet.augmentation.transfer import to_device
from medunet.preprocessing.cubic import compute_cubic_matrix
from medunet.preprocessing.resample import ANISOTROPY, interpolate_axis
from medunet.volume import Array, Shape3, Spacing

_LARGEST_NODE_SHARE = 0.15
"""Of a patch's edge: largest standard deviation of a node's displacement; 10 voxels from 68 voxels on."""


@dataclass(frozen=True, kw_only=True)
class SpatialChange:
    """What was drawn for one patch.

    Attributes:
        matrix: ``(3, 3)``, from an offset in the patch to an offset in the case, both in voxels; None for no change.
        control_mm: Displacements of the B-spline's control points, ``(n, n, n, 3)`` mm; None for no deformation.
        node_voxels: Displacements of the nodes of a coarse grid, ``(nodes per axis, 3)`` voxels, one node along an axis of
            one voxel; None for no deformation of this kind.
        mirrored_axes: Whose two ends are swapped, after everything else.
    """

    matrix: Array | None = None
    control_mm: Array | None = None
    node_voxels: Array | None = None
    mirrored_axes: tuple[int, ...] = ()

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are swapped: then labels of left and right must be, too."""
        return 0 in self.mirrored_axes

    @property
    def is_plain(self) -> bool:
        """Whether a crop is all that it takes, before the patch is mirrored."""
        return self.matrix is None and self.control_mm is None and self.node_voxels is None

    def limit_displacement_voxels(self, patch_size: Shape3, spacing: Spacing) -> tuple[Array, Array]:
        """Bounds of the deformation along the three axes, ``(3,)`` voxels each; 0 where there is none.

        The weights of a B-spline are positive and sum to 1, so no point moves further than the control points around it. Those
        of a cubic through the nodes overshoot by a known factor.
        """
        low, high = np.zeros(3), np.zeros(3)
        if self.control_mm is not None:
            moved = self.control_mm.reshape(-1, 3) / np.array(spacing)
            low, high = moved.min(axis=0), moved.max(axis=0)
        if self.node_voxels is not None:
            matrices = [
                _compute_node_basis(size, n) for size, n in zip(patch_size, self.node_voxels.shape[:3], strict=True)
            ]
            overshoot = math.prod(float(matrix.abs().sum(dim=1).max()) for matrix in matrices)
            largest = overshoot * np.abs(self.node_voxels).reshape(-1, 3).max(axis=0)
            low, high = low - largest, high + largest
        return low, high


def sample_spatial(
    policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3, spacing: Spacing
) -> SpatialChange:
    """Draw the spatial change of one patch."""
    rotates = rng.random() < policy.rotation_probability
    angles = rng.uniform(-policy.rotation_degrees, policy.rotation_degrees, 3)
    zooms = rng.random() < policy.scaling_probability
    (factor,) = sample_factors(rng, policy.scaling, 1)
    deforms = rng.random() < policy.elastic_probability
    is_grid = policy.elastic_kind == "grid"
    bends = _sample_nodes if is_grid else _sample_control_points
    displacements = bends(policy, rng, patch_size, spacing)
    flips = rng.random(3) < policy.mirror_probability
    mirrored_axes = tuple(axis for axis in policy.mirror_axes if flips[axis] and patch_size[axis] > 1)
    matrix = None
    if rotates or zooms:
        turning = policy.rotation_axes or list_rotation_axes(patch_size, spacing)
        rotation = _compute_rotation(np.where(np.isin(range(3), turning), angles * rotates, 0.0))
        to_mm, to_voxels = np.diag(spacing), np.diag(1 / np.array(spacing))
        is_zoomed = [zooms and size > 1 and axis in policy.scaling_axes for axis, size in enumerate(patch_size)]
        matrix = to_voxels @ rotation @ to_mm * np.where(is_zoomed, 1 / factor, 1.0)
    return SpatialChange(
        matrix=matrix,
        control_mm=displacements if deforms and not is_grid else None,
        node_voxels=displacements if deforms and is_grid else None,
        mirrored_axes=mirrored_axes,
    )


def compute_source_offsets(
    change: SpatialChange, patch_size: Shape3, spacing: Spacing, *, device: torch.device | None = None
) -> Tensor | None:
    """For every voxel of the patch, where it comes from, relative to the centre; before it is mirrored.

    Args:
        change: What was drawn.
        patch_size: Of the patch.
        spacing: Of the patch, mm.
        device: Where to compute; the CPU unless told otherwise.

    Returns:
        ``(I, J, K, 3)`` in voxels, or None when a plain crop does.
    """
    if change.is_plain:
        return None
    matrix = to_device(np.eye(3) if change.matrix is None else change.matrix, device)
    # What a matrix makes of a grid is a sum over its axes, (3, I) + (3, J) + (3, K): cheaper than its product with each voxel.
    # One axis after the other in memory: what reads one coordinate of all voxels reads it in one piece.
    i, j, k = (
        matrix[:, axis, None] * (torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2)
        for axis, size in enumerate(patch_size)
    )
    offsets = ((i[:, :, None] + j[:, None])[..., None] + k[:, None, None]).movedim(0, -1)  # (I, J, K, 3)
    if change.control_mm is not None:
        control_mm = to_device(change.control_mm, device)
        displacement_mm = compute_bspline_field(control_mm, patch_size)
        offsets += displacement_mm / to_device(np.array(spacing, dtype=float), device)
    if change.node_voxels is not None:
        offsets += compute_grid_field(to_device(change.node_voxels, device), patch_size)
    return offsets


def compute_zoom_offsets(change: SpatialChange, patch_size: Shape3) -> list[Tensor] | None:
    """Where the planes of a patch that is only zoomed come from, relative to the centre, along each axis by itself.

    Args:
        change: What was drawn.
        patch_size: Of the patch.

    Returns:
        ``(I,)``, ``(J,)`` and ``(K,)`` in voxels, on the CPU; None where axes mix, or a plain crop does.
    """
    if (
        change.matrix is None
        or change.control_mm is not None
        or change.node_voxels is not None
        or np.any(change.matrix != np.diag(np.diag(change.matrix)))
    ):
        return None
    factors = np.diag(change.matrix).tolist()
    return [
        (torch.arange(size, dtype=torch.float32) - (size - 1) / 2) * factor
        for size, factor in zip(patch_size, factors, strict=True)
    ]


def apply_zoom(box: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Interpolate a box on a grid, one axis after the other: what `apply_spatial` gives, to rounding, at less cost.

    Args:
        box: ``(C, I, J, K)``.
        positions: ``(I',)``, ``(J',)`` and ``(K',)`` in voxels of the box, on the CPU.

    Returns:
        ``(C, I', J', K')`` float32; positions outside the box take its border.
    """
    zoomed = box.float()
    for axis, along in enumerate(positions):
        zoomed = interpolate_axis(zoomed, 1 + axis, along)
    return zoomed


def apply_spatial(box: Tensor, coordinates: Tensor, mode: str) -> Tensor:
    """Interpolate a box at given positions.

    Args:
        box: ``(C, I, J, K)``.
        coordinates: ``(I', J', K', 3)`` voxel positions within the box.
        mode: ``"bilinear"`` (trilinear here) or ``"nearest"``; for label maps see `warp_labels`.

    Returns:
        ``(C, I', J', K')`` float32; positions outside the box take its border.
    """
    # grid_sample orders the axes (K, J, I), from -1 to 1 between edges: voxel centres lie half a voxel inside.
    sizes = np.array(box.shape[:0:-1], dtype=float)
    grid = coordinates.flip(-1).mul_(to_device(2 / sizes, box.device)).add_(to_device(1 / sizes - 1, box.device))
    return F.grid_sample(box[None].float(), grid[None], mode=mode, padding_mode="border", align_corners=False)[0]


def compute_bspline_field(control: Tensor, shape: Shape3) -> Tensor:
    """A dense displacement field from control points by uniform cubic B-splines (Rueckert 1999, doi:10.1109/42.796284).

    The domain is divided like ITK's ``BSplineTransform``: ``n`` control points per axis span ``n - 3`` cells, one
    control point lying outside at each end.

    Args:
        control: ``(n, n, n, 3)``.
        shape: Voxels of the field.

    Returns:
        ``(I, J, K, 3)`` in the unit of the control points.
    """
    i, j, k = (_compute_bspline_basis(size, control.shape[axis], control.device) for axis, size in enumerate(shape))
    # One axis after the other, the cheapest order: a single einsum would pick its own.
    field = torch.einsum("kc,abcd->abkd", k, control)
    field = torch.einsum("jb,abkd->ajkd", j, field)
    return torch.einsum("ia,ajkd->ijkd", i, field)


def _compute_bspline_basis(num_voxels: int, num_control: int, device: torch.device | None = None) -> Tensor:
    """Weights ``(num_voxels, num_control)``; each row sums to 1."""
    num_cells = num_control - 3
    # ITK divides the patch from edge to edge, and an eighth of a voxel more at either end (BSplineTransformInitializer).
    voxels = torch.arange(num_voxels, dtype=torch.float32, device=device)
    position = (voxels + 0.625) / (num_voxels + 0.25) * num_cells
    cell = position.floor().clamp(max=num_cells - 1).long()
    u = position - cell
    weights = torch.stack(
        [
            (1 - u) ** 3 / 6,
            (3 * u**3 - 6 * u**2 + 4) / 6,
            (-3 * u**3 + 3 * u**2 + 3 * u + 1) / 6,
            u**3 / 6,
        ],
        dim=1,
    )
    basis = torch.zeros(num_voxels, num_control, device=device)
    return basis.scatter_(1, cell[:, None] + torch.arange(4, device=device), weights)


def compute_grid_field(nodes: Tensor, shape: Shape3) -> Tensor:
    """A dense displacement field that passes through the displacements of a coarse grid's nodes (Ronneberger 2015).

    Cubic in each axis, bicubic in a slice. The first and the last node lie at the first and the last voxel.

    Args:
        nodes: ``(nodes per axis, 3)``; one node along an axis stands for all of its voxels.
        shape: Voxels of the field.

    Returns:
        ``(I, J, K, 3)`` in the unit of the nodes.
    """
    i, j, k = (_compute_node_basis(size, n).to(nodes) for size, n in zip(shape, nodes.shape[:3], strict=True))
    field = torch.einsum("kc,abcd->abkd", k, nodes)
    field = torch.einsum("jb,abkd->ajkd", j, field)
    return torch.einsum("ia,ajkd->ijkd", i, field)


@lru_cache(maxsize=64)
def _compute_node_basis(num_voxels: int, num_nodes: int) -> Tensor:
    """Weights ``(num_voxels, num_nodes)`` of the cubic through evenly spread nodes; each row sums to 1."""
    positions = np.linspace(0, num_nodes - 1, num_voxels) if num_voxels > 1 else np.zeros(1)
    return torch.from_numpy(compute_cubic_matrix(num_nodes, positions)).float()


def list_rotation_axes(patch_size: Shape3, spacing: Spacing) -> list[int]:
    """The axes around which a patch may turn: only the one across the fine plane when it is much coarser or missing."""
    coarse = int(np.argmax(spacing))
    if 1 in patch_size:
        return [patch_size.index(1)]
    return [coarse] if spacing[coarse] > ANISOTROPY * min(spacing) else [0, 1, 2]


def _sample_control_points(
    policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3, spacing: Spacing
) -> Array:
    """Uniform displacements, small enough not to fold."""
    n = policy.elastic_control_points
    control_mm: Array = rng.uniform(-1, 1, (n, n, n, 3)) * limit_displacement_mm(policy, patch_size, spacing)
    return control_mm


def _sample_nodes(policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3, spacing: Spacing) -> Array:
    """Normal displacements in voxels, none along an axis of one voxel; small patches are bent less, or they would fold."""
    counts = [policy.elastic_nodes if size > 1 else 1 for size in patch_size]
    deviations = [
        0.0 if size == 1 else min(policy.elastic_deviation_voxels, _LARGEST_NODE_SHARE * (size - 1))
        for size in patch_size
    ]
    nodes: Array = rng.normal(size=(*counts, 3)) * deviations
    return nodes


def limit_displacement_mm(policy: AugmentationPolicy, patch_size: Shape3, spacing: Spacing) -> Array:
    """Largest displacement of a control point along each axis, ``(3,)`` mm; 0 along an axis of one voxel."""
    extent_mm = np.array(patch_size) * np.array(spacing)
    cell_mm = extent_mm / (policy.elastic_control_points - 3)
    # Half the distance of control points is where a deformation begins to fold.
    limit_mm: Array = np.minimum(policy.elastic_displacement * extent_mm, 0.45 * cell_mm)
    limit_mm[[size == 1 for size in patch_size]] = 0.0
    return limit_mm


def _compute_rotation(angles_degrees: Array) -> Array:
    """Rotation in mm around the three axes, one after the other."""
    angles = np.deg2rad(angles_degrees)
    rotation = np.eye(3)
    for axis in range(3):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angles[axis])
        turn[a, b], turn[b, a] = -math.sin(angles[axis]), math.sin(angles[axis])
        rotation = rotation @ turn
    return rotation
