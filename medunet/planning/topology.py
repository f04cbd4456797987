"""How deep a U-Net for a patch can be, and which axes each stage halves (nnU-Net's rules, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

from dataclasses import dataclass

from medunet.volume import Shape3, Spacing

MIN_FEATURE_MAP_SIZE = 4


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Strides and kernels per stage, finest first.

    Attributes:
        strides: Stride of the first convolution of each stage; the first stage has ``(1, 1, 1)``.
        kernels: Kernel of the convolutions of each stage.
    """

    strides: tuple[Shape3, ...]
    kernels: tuple[Shape3, ...]

    @property
    def divisors(self) -> Shape3:
        """What each axis of a patch must be a multiple of."""
        product = [1, 1, 1]
        for stride in self.strides:
            product = [have * more for have, more in zip(product, stride, strict=True)]
        i, j, k = product
        return i, j, k


def compute_topology(patch_size: Shape3, spacing: Spacing, *, max_stages: int = 8) -> Topology:
    """Pool every axis as long as it is worth it.

    An axis is halved while it has at least 8 voxels and its spacing stays below twice the smallest among the axes that
    can be halved; a lone last axis needs 12 voxels. An axis is convolved (kernel 3) once its spacing is within twice
    the smallest, and in the last stage; before that its kernel is 1. An axis of one voxel, as in 2D patches, is never
    convolved. A patch with an axis of 8 voxels has at least two stages, since a U-Net needs them.

    Example:
        >>> compute_topology((40, 56, 40), (1.0, 1.0, 1.0)).divisors
        (8, 8, 8)
    """
    size, mm = list(patch_size), list(spacing)
    strides, kernels = [(1, 1, 1)], [_choose_kernel(patch_size, mm, (1, 1, 1))]
    while len(strides) < max_stages:
        axes = _choose_axes_to_halve(size, mm, is_first=len(strides) == 1)
        if not axes:
            break
        for axis in axes:
            size[axis] = -(-size[axis] // 2)
            mm[axis] *= 2
        i, j, k = (2 if axis in axes else 1 for axis in range(3))
        strides.append((i, j, k))
        kernels.append(_choose_kernel(patch_size, mm, kernels[-1]))
    i, j, k = (3 if n > 1 else 1 for n in patch_size)
    kernels[-1] = (i, j, k)
    return Topology(strides=tuple(strides), kernels=tuple(kernels))


def _choose_axes_to_halve(size: list[int], mm: list[float], *, is_first: bool) -> list[int]:
    large = [axis for axis in range(3) if size[axis] >= 2 * MIN_FEATURE_MAP_SIZE]
    if not large:
        return []
    finest = min(mm[axis] for axis in large)
    axes = [axis for axis in large if mm[axis] / finest < 2]
    if len(axes) == 1 and size[axes[0]] < 3 * MIN_FEATURE_MAP_SIZE and not is_first:
        return []
    return axes


def _choose_kernel(patch_size: Shape3, mm: list[float], before: Shape3) -> Shape3:
    finest = min(mm[axis] for axis in range(3) if patch_size[axis] > 1)
    i, j, k = (3 if patch_size[axis] > 1 and (before[axis] == 3 or mm[axis] / finest < 2) else 1 for axis in range(3))
    return i, j, k
