"""A dense conditional random field between probabilities and image: mean field with a bilateral and a Gaussian kernel.

Kraehenbuehl & Koltun 2011 (arXiv:1210.5644), in 2D and 3D, with distances in mm and any number of image channels:

```text
E(x) = sum_i -log p_i(x_i)  +  sum_{i != j} [x_i != x_j] (w_a k_a(i, j) + w_s k_s(i, j))
k_a = exp(-|s_i - s_j|² / 2 appearance_mm²  -  |I_i - I_j|² / 2 intensity_sd²)      k_s = exp(-|s_i - s_j|² / 2 smoothness_mm²)
```

Both kernels are normalised symmetrically, k(i, j) / sqrt(d_i d_j) with d_i the sum of k(i, j) over j, as their code does, so
that weights mean the same whatever the spacing. The paper sums over all voxels through a permutohedral lattice, which is an
approximation in six dimensions. Here the sums are exact, but end at a window around each voxel (Teichmann & Cipolla 2018,
arXiv:1805.04777); a window that covers the image is the paper's field, which a test compares with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.postprocessing.crf_settings import DenseCrf
from medunet.volume import Spacing

_LEAST = 1e-3  # of a probability: what is stored in a byte as 0 is not impossible
_SD_SHARE = 0.25  # of the deviation of the image; about what the paper found for photographs
_Sides: TypeAlias = tuple[tuple[slice, ...], tuple[slice, ...]]


def refine_probabilities(probabilities: Tensor, image: Tensor, spacing: Spacing, crf: DenseCrf) -> Tensor:
    """The mean field of the dense CRF.

    Args:
        probabilities: ``(C, I, J, K)`` float, one channel per class, the sum is 1; a picture has one ``K``.
        image: ``(N, I, J, K)`` float, on the same device.
        spacing: In mm.
        crf: Weights and distances.

    Returns:
        ``(C, I, J, K)``; the sum over classes is 1.

    Raises:
        ValueError: If the shapes do not fit, or there is one class only.

    Example:
        >>> noisy = torch.tensor([0.9, 0.9, 0.4, 0.9]).reshape(1, 4, 1, 1)
        >>> refined = refine_probabilities(torch.cat([noisy, 1 - noisy]), torch.zeros(1, 4, 1, 1), (1.0,) * 3, DenseCrf())
        >>> (refined[0] > 0.5).flatten().tolist()
        [True, True, True, True]
    """
    if (
        probabilities.ndim != 4
        or len(probabilities) < 2
        or image.ndim != 4
        or image.shape[1:] != probabilities.shape[1:]
    ):
        msg = (
            f"A CRF needs probabilities (C, I, J, K) of two or more classes and an image (N, I, J, K); got "
            f"{tuple(probabilities.shape)} and {tuple(image.shape)}."
        )
        raise ValueError(msg)
    return refine_logits(torch.log(probabilities.clamp(_LEAST, 1.0)), image, spacing, crf)


def refine_logits(logits: Tensor, image: Tensor, spacing: Spacing, crf: DenseCrf) -> Tensor:
    """`refine_probabilities` from logits ``(C, I, J, K)``, whose softmax are the probabilities."""
    unary = torch.log_softmax(logits, dim=0)
    reach = _compute_reach(unary.shape[1:], spacing, crf)
    features = _scale(image.to(unary.dtype), crf)
    alike = _Appearance(features, spacing, reach, crf) if crf.appearance else None
    near = _Smoothness(unary, spacing, reach, crf) if crf.smoothness else None
    field = unary.exp()
    for _ in range(int(crf.iterations)):
        energy = unary.clone()
        if alike is not None:
            energy += crf.appearance * alike.gather(field)
        if near is not None:
            energy += crf.smoothness * near.gather(field)
        field = torch.softmax(energy, dim=0)
    return field


def _compute_reach(shape: torch.Size, spacing: Spacing, crf: DenseCrf) -> tuple[int, ...]:
    """Voxels of the window to either side, per axis."""
    return tuple(
        min(math.floor(crf.window_mm / mm + 1e-6), length - 1) for mm, length in zip(spacing, shape, strict=True)
    )


def _scale(image: Tensor, crf: DenseCrf) -> Tensor:
    """The image in standard deviations of differences; a channel without any difference is 0."""
    if crf.intensity_sd is not None:
        return image / crf.intensity_sd
    deviations = _SD_SHARE * image.std(dim=(1, 2, 3), correction=0, keepdim=True)
    return torch.where(deviations > 0, image / deviations.clamp_min(1e-12), 0.0)


class _Appearance:
    """Sums over neighbours that look alike, one offset of the window after the other: no weight is kept."""

    def __init__(self, features: Tensor, spacing: Spacing, reach: tuple[int, ...], crf: DenseCrf) -> None:
        self._features = features
        self._offsets = list(_list_offsets(reach))
        self._exponents = [
            sum((step * mm) ** 2 for step, mm in zip(offset, spacing, strict=True)) / (2 * crf.appearance_mm**2)
            for offset in self._offsets
        ]
        self._norm = _invert_root(self._sum(torch.ones_like(features[:1])))

    def gather(self, field: Tensor) -> Tensor:
        """``(C, I, J, K)``: what the neighbours of every voxel say."""
        return self._norm * self._sum(self._norm * field)

    def _sum(self, field: Tensor) -> Tensor:
        total = torch.zeros_like(field)
        for offset, exponent in zip(self._offsets, self._exponents, strict=True):
            one, other = _find_sides(offset)
            difference = self._features[one] - self._features[other]
            weight = torch.exp(-0.5 * difference.square().sum(dim=0, keepdim=True) - exponent)
            total[one] += weight * field[other]  # a pair pulls both ways
            total[other] += weight * field[one]
        return total


class _Smoothness:
    """Sums over neighbours by distance alone: three sums along the axes, less the voxel itself."""

    def __init__(self, like: Tensor, spacing: Spacing, reach: tuple[int, ...], crf: DenseCrf) -> None:
        self._kernels = [
            torch.exp(-((torch.arange(-most, most + 1, device=like.device, dtype=like.dtype) * mm) ** 2) / (2 * crf.smoothness_mm**2))
            for most, mm in zip(reach, spacing, strict=True)
        ]  # fmt: skip
        self._norm = _invert_root(self._sum(torch.ones_like(like[:1])))

    def gather(self, field: Tensor) -> Tensor:
        """``(C, I, J, K)``: what the neighbours of every voxel say."""
        return self._norm * self._sum(self._norm * field)

    def _sum(self, field: Tensor) -> Tensor:
        total = field[:, None]  # (C, 1, I, J, K)
        for axis, kernel in enumerate(self._kernels):
            shape = [1, 1, 1, 1, 1]
            shape[2 + axis] = len(kernel)
            padding = [0, 0, 0]
            padding[axis] = len(kernel) // 2
            total = F.conv3d(total, kernel.reshape(shape), padding=padding)
        return total[:, 0] - field


def _list_offsets(reach: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Half of the window without its centre; the other half are the same pairs."""
    for offset in itertools.product(*(range(-most, most + 1) for most in reach)):
        if offset > (0, 0, 0):
            yield offset


def _find_sides(offset: tuple[int, ...]) -> _Sides:
    """Every pair of voxels at that offset, as two slices of ``(C, I, J, K)``."""
    one = tuple(slice(max(-step, 0), -step if step > 0 else None) for step in offset)
    other = tuple(slice(max(step, 0), step if step < 0 else None) for step in offset)
    return (slice(None), *one), (slice(None), *other)


def _invert_root(total: Tensor) -> Tensor:
    """1 / sqrt; 0 for a voxel without neighbours."""
    return torch.where(total > 0, total.clamp_min(1e-30).rsqrt(), 0.0)
