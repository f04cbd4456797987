"""How deep a U-Net for a patch can be, and which axes each stage halves (nnU-Net's rules, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_FEATURE_MAP_SIZE = 4


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Strides and kernels per stage, finest first, one number per axis of the patch (two in 2D, three in 3D).

    Attributes:
        strides: Stride of the first convolution of each stage; the first stage has stride 1.
        kernels: Kernel of the convolutions of each stage.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis of a patch must be a multiple of."""
        return tuple(math.prod(stage) for stage in zip(*self.strides, strict=True))


def compute_topology(patch_size: Sequence[float], spacing: Sequence[float]) -> Topology:
    """Pool every axis as long as it is worth it.

    An axis is halved while it has at least 8 voxels and its spacing stays below twice the smallest among the axes that
    can be halved; a lone last axis needs 12 voxels. An axis is convolved (kernel 3) once its spacing is within twice
    the smallest, and in the last stage; before that its kernel is 1.

    A patch of which one axis alone could be halved, with 8 to 11 voxels, gets two stages where nnU-Net would stop at
    one, since a U-Net needs them.

    Args:
        patch_size: Voxels of two or three axes; not yet a multiple of anything.
        spacing: Voxel size of the same axes, mm.

    Example:
        >>> compute_topology((40, 56, 40), (1.0, 1.0, 1.0)).divisors
        (8, 8, 8)
    """
    num_axes = len(patch_size)
    size, mm = list(patch_size), list(spacing)
    strides = [(1,) * num_axes]
    kernels = [_choose_kernel(mm, (1,) * num_axes)]
    while axes := _choose_axes_to_halve(size, mm, is_first=len(strides) == 1):
        for axis in axes:
            size[axis] = math.ceil(size[axis] / 2)
            mm[axis] *= 2
        strides.append(tuple(2 if axis in axes else 1 for axis in range(num_axes)))
        kernels.append(_choose_kernel(mm, kernels[-1]))
    kernels[-1] = (3,) * num_axes
    return Topology(strides=tuple(strides), kernels=tuple(kernels))


def _choose_axes_to_halve(size: list[float], mm: list[float], *, is_first: bool) -> list[int]:
    large = [axis for axis in range(len(size)) if size[axis] >= 2 * MIN_FEATURE_MAP_SIZE]
    if not large:
        return []
    finest = min(mm[axis] for axis in large)
    axes = [axis for axis in large if mm[axis] / finest < 2]
    if len(axes) == 1 and size[axes[0]] < 3 * MIN_FEATURE_MAP_SIZE and not is_first:
        return []
    return axes


def _choose_kernel(mm: list[float], before: tuple[int, ...]) -> tuple[int, ...]:
    finest = min(mm)
    return tuple(3 if was == 3 or length / finest < 2 else 1 for length, was in zip(mm, before, strict=True))
