"""What an MR scanner does to a picture: motion, ghosts, an uneven field and thick slices, in plain torch.

Each function changes one patch ``(C, I, J, K)`` as drawn, all channels alike, by TorchIO's formulas
(doi:10.1016/j.cmpb.2021.106236), on the patch's device and without asking it for a number. k-space is changed along one
axis only, so it is entered along that axis only.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from medunet.augmentation.changes import BIAS_FIELD_ORDER, Anisotropy, Ghosting, Motion
from medunet.augmentation.spatial import SpatialChange, apply_spatial, compute_source_offsets
from medunet.augmentation.transfer import to_device
from medunet.volume import Array


def apply_bias_field(patch: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Multiply by the exponential of a polynomial of third order.

    From Sudre 2017 (sciencedirect.com/science/article/pii/S1361841517300257), after Van Leemput 1999. The
    field acts on the signal above each channel's darkest voxel, as a normalised patch is negative where there is little
    signal; TorchIO multiplies the intensities as they are.

    Args:
        patch: ``(C, I, J, K)`` float32.
        coefficients: Of the 20 monomials ``x^a y^b z^c``, ``c`` running fastest, with coordinates from -1 to 1 across the
            patch.
    """
    x, y, z = (_compute_powers(size, patch.device) for size in patch.shape[1:])  # (4, I), (4, J), (4, K)
    cube = to_device(_arrange_coefficients(coefficients), patch.device)
    field = torch.einsum("abc,ai,bj,ck->ijk", cube, x, y, z).exp()
    low = patch.amin((1, 2, 3), keepdim=True)
    return (patch - low) * field + low


def apply_ghosting(patch: Tensor, ghosting: Ghosting) -> Tensor:
    """Dim every n-th plane of k-space along one axis, but never the plane of its centre, which holds the means."""
    length = patch.shape[1 + ghosting.axis]
    planes = np.ones(length)
    planes[:: ghosting.num_ghosts] = 1 - ghosting.intensity
    planes[length // 2] = 1.0
    return _weigh_planes(patch, planes, ghosting.axis)


def apply_motion(patch: Tensor, motion: Motion) -> Tensor:
    """Fill k-space from the patch at rest and from moved ones, in the order of the acquisition (Shaw 2019).

    The patient is at rest while the centre of k-space is acquired, so that labels stay where they are. Turns are about
    the patch's centre; what comes from outside the patch is its darkest voxel.
    """
    length = patch.shape[1 + motion.axis]
    cuts = [0, *(int(length * time) for time in motion.times), length]
    # Positions 1, 2, ... have moved; the one that holds the centre of k-space swaps places with the patch at rest.
    rest = next(n for n, last in enumerate(cuts[1:]) if last > length // 2)
    order = list(range(len(cuts) - 1))
    order[0], order[rest] = order[rest], order[0]
    filled = torch.zeros_like(patch)
    for position, (first, last) in zip(order, pairwise(cuts), strict=True):
        planes = np.zeros(length)
        planes[first:last] = 1.0
        moved = patch if position == 0 else _move(patch, motion, position - 1)
        filled += _weigh_planes(moved, planes, motion.axis)
    return filled


def apply_anisotropy(patch: Tensor, anisotropy: Anisotropy) -> Tensor:
    """Take every n-th slice along one axis and interpolate between them (Billot 2020, doi:10.1007/978-3-030-59728-3_18).

    ``n`` may be a fraction: the nearest slice is taken. The slices lie centred in the patch; beyond the outermost the
    values are repeated, where TorchIO fills with zeros.
    """
    axis = 1 + anisotropy.axis
    length = patch.shape[axis]
    num_slices = max(1, int(length / anisotropy.factor))
    centre = (length - 1) / 2
    # Nearest, and the upper of two equally near ones, as ITK rounds.
    sources = np.floor((np.arange(num_slices) - (num_slices - 1) / 2) * anisotropy.factor + centre + 0.5)
    positions = (np.arange(length) - centre) / anisotropy.factor + (num_slices - 1) / 2
    lower = np.clip(np.floor(positions), 0, max(num_slices - 2, 0))
    upper = np.minimum(lower + 1, num_slices - 1)
    share = np.clip(positions - lower, 0.0, 1.0)
    slices = np.clip(sources, 0, length - 1).astype(np.int64)
    below = patch.index_select(axis, to_device(slices[lower.astype(int)], patch.device))
    above = patch.index_select(axis, to_device(slices[upper.astype(int)], patch.device))
    return torch.lerp(below, above, _align(to_device(share, patch.device), axis))


def compute_motion_matrix(degrees: tuple[float, float, float]) -> Array:
    """Rotation ``(3, 3)`` about three axes, in RAS: first about the second axis, then the first, then the third.

    The order is that of ITK's ``Euler3DTransform``, which works in LPS: turning the first two axes around changes the
    sign of the angles about them.
    """
    a, b, c = np.deg2rad(degrees)
    about_first = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_second = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_third = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix: Array = about_third @ about_first @ about_second
    return matrix


def _weigh_planes(patch: Tensor, planes: Array, axis: int) -> Tensor:
    """Weigh the planes of k-space along one axis, the centre being in the middle, and keep the real part.

    The real part sees a frequency and its negative with the mean of their weights, so half of k-space does.
    """
    weights = np.fft.ifftshift(planes)
    weights = (weights + np.roll(weights[::-1], 1)) / 2
    spectrum = torch.fft.rfft(patch, dim=1 + axis)
    spectrum *= _align(to_device(weights[: spectrum.shape[1 + axis]], patch.device), 1 + axis)
    weighed: Tensor = torch.fft.irfft(spectrum, n=len(planes), dim=1 + axis)
    return weighed


def _move(patch: Tensor, motion: Motion, number: int) -> Tensor:
    """The patch after one motion, interpolated once."""
    i, j, k = patch.shape[1:]
    sizes, spacing = np.array((i, j, k)), np.array(motion.spacing)
    matrix = np.diag(1 / spacing) @ compute_motion_matrix(motion.degrees[number]) @ np.diag(spacing)
    offsets = compute_source_offsets(SpatialChange(matrix=matrix), (i, j, k), motion.spacing, device=patch.device)
    assert offsets is not None
    centre = (sizes - 1) / 2 + np.array(motion.translation_mm[number]) / spacing
    coordinates = offsets + to_device(centre, patch.device)
    is_outside = ((coordinates < -0.5) | (coordinates >= to_device(sizes - 0.5, patch.device))).any(-1)
    return torch.where(is_outside, patch.amin((1, 2, 3), keepdim=True), apply_spatial(patch, coordinates, "bilinear"))


def _compute_powers(size: int, device: torch.device) -> Tensor:
    """``(4, size)``: 1, x, x² and x³ of coordinates from -1 to 1."""
    half = (size - 1) / 2
    x = (torch.arange(size, dtype=torch.float32, device=device) - half) / max(half, 0.5)
    return torch.stack([x**power for power in range(BIAS_FIELD_ORDER + 1)])


def _arrange_coefficients(coefficients: tuple[float, ...]) -> Array:
    """``(4, 4, 4)`` by the powers along the three axes; TorchIO lists those whose powers sum to 3 at most."""
    cube = np.zeros((BIAS_FIELD_ORDER + 1,) * 3, dtype=np.float32)
    powers = [index for index in np.ndindex(*cube.shape) if sum(index) <= BIAS_FIELD_ORDER]
    for index, coefficient in zip(powers, coefficients, strict=True):
        cube[index] = coefficient
    return cube


def _align(values: Tensor, axis: int) -> Tensor:
    """Values along one axis of ``(C, I, J, K)``."""
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    return values.reshape(shape)
