"""Drawn changes of intensities on whole batches, in plain torch on whatever device the batch lies.

The patches that share a kind of change are changed together where the arithmetic allows it. Formulas are nnU-Net's
(batchgeneratorsv2); the order is that of the acquisition: the scanner's artifacts first, then noise, blur, brightness,
contrast, low resolution and gamma. Nothing here asks the device for a number, so the host never waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation.changes import IntensityChange, Noise, Triple
from medunet.augmentation.mr_artifacts import apply_anisotropy, apply_bias_field, apply_ghosting, apply_motion
from medunet.augmentation.transfer import to_device

_AXES = (2, 3, 4)  # of a batch (B, C, I, J, K)
_Drawn = TypeVar("_Drawn")


def apply_intensity(patches: Tensor, changes: Sequence[IntensityChange]) -> Tensor:
    """Change the intensities of every patch as drawn.

    A patch comes out the same whatever batch it is in (to rounding).

    Args:
        patches: ``(B, C, I, J, K)`` float32 on any device; changed in place.
        changes: One per patch; tuples in them have one value per channel, or a single one for all.

    Returns:
        The patches.

    Raises:
        ValueError: If there are more or fewer changes than patches, or values than channels.
    """
    if len(changes) != len(patches):
        msg = f"{len(changes)} changes for {len(patches)} patches; give one per patch."
        raise ValueError(msg)
    for name, apply in _STEPS:
        drawn = {position: getattr(change, name) for position, change in enumerate(changes)}
        drawn = {position: value for position, value in drawn.items() if value is not None}
        if drawn:
            subset = torch.stack([patches[position] for position in drawn])  # (b, C, I, J, K)
            for position, changed in zip(drawn, apply(subset, list(drawn.values())), strict=True):
                patches[position].copy_(changed)
    return patches


def _apply_each(apply: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, list[Any]], Tensor]:
    """For changes whose arithmetic differs from patch to patch."""
    return lambda patches, drawn: torch.stack([apply(patch, one) for patch, one in zip(patches, drawn, strict=True)])


def _add_noise(patch: Tensor, noise: Noise) -> Tensor:
    generator = torch.Generator(patch.device).manual_seed(noise.seed)
    voxels = torch.randn(patch.shape, generator=generator, device=patch.device, dtype=patch.dtype)
    return patch + voxels * noise.deviation


def _blur(patches: Tensor, sigmas: list[tuple[Triple, ...]]) -> Tensor:
    """Separable Gaussian, each weight its bell's integral over a voxel, cut at four deviations (MONAI's definition).

    The borders are repeated outwards and the weights sum to 1, so that a constant stays one; MONAI pads with zeros.
    """
    radius = max(1, math.ceil(4 * max(max(triple) for channels in sigmas for triple in channels)))
    sigma = to_device(_give_each_channel(sigmas, patches.shape[1]), patches.device)  # (b, C, 3)
    edges = torch.arange(-radius - 0.5, radius + 1, device=patches.device, dtype=patches.dtype)
    weights = torch.erf(edges / (sigma * math.sqrt(2))[..., None]).diff(dim=-1)  # (b, C, 3, taps)
    weights = (weights / weights.sum(-1, keepdim=True))[..., None, None, None]
    for axis in range(3):
        if patches.shape[2 + axis] > 1:
            patches = _convolve(patches, weights[:, :, axis], 2 + axis, radius)
    return patches


def _convolve(patches: Tensor, weights: Tensor, axis: int, radius: int) -> Tensor:
    """Symmetric weights ``(b, C, taps, 1, 1, 1)`` along one axis: sums of shifted patches beat a convolution here."""
    length = patches.shape[axis]
    padding = [0] * 6
    padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = radius  # F.pad starts with the last axis
    padded = F.pad(patches, padding, mode="replicate")
    total = patches * weights[:, :, radius]
    for shift in range(1, radius + 1):
        pair = padded.narrow(axis, radius - shift, length) + padded.narrow(axis, radius + shift, length)
        total.addcmul_(pair, weights[:, :, radius + shift])
    return total


def _multiply(patches: Tensor, factors: list[tuple[float, ...]]) -> Tensor:
    return patches * _to_factors(factors, patches)


def _stretch(patches: Tensor, factors: list[tuple[float, ...]]) -> Tensor:
    """Contrast around each channel's mean, kept within its range."""
    mean = patches.mean(_AXES, keepdim=True)
    stretched = (patches - mean) * _to_factors(factors, patches) + mean
    return stretched.clamp(patches.amin(_AXES, keepdim=True), patches.amax(_AXES, keepdim=True))


def _lower_resolution(patch: Tensor, factors: tuple[Triple, ...]) -> Tensor:
    """Down by nearest neighbour and up by linear interpolation, channel by channel, as their sizes differ."""
    shape = list(patch.shape[1:])
    (factors,) = _give_each_channel([factors], len(patch))
    channels = []
    for channel, triple in zip(patch[:, None, None], factors, strict=True):  # (1, 1, I, J, K)
        small = [max(1, round(size * factor)) for size, factor in zip(shape, triple, strict=True)]
        if small != shape:
            lowered = F.interpolate(channel, size=small, mode="nearest-exact")
            channel = F.interpolate(lowered, size=shape, mode="trilinear", align_corners=False)
        channels.append(channel[0, 0])
    return torch.stack(channels)


def _apply_gamma(patches: Tensor, gammas: list[tuple[float, ...]]) -> Tensor:
    """Gamma on each channel's range; mean and deviation are restored afterwards."""
    mean = patches.mean(_AXES, keepdim=True)
    low = patches.amin(_AXES, keepdim=True)
    extent = (patches.amax(_AXES, keepdim=True) - low).clamp(min=1e-7)
    curved = ((patches - low) / extent) ** _to_factors(gammas, patches) * extent
    curved -= curved.mean(_AXES, keepdim=True)
    # Norms of what has no mean are deviations but for a factor, and many times cheaper than torch.std.
    spread = torch.linalg.vector_norm(patches - mean, dim=_AXES, keepdim=True)
    changed: Tensor = (
        curved * (spread / torch.linalg.vector_norm(curved, dim=_AXES, keepdim=True).clamp(min=1e-7)) + mean
    )
    return changed


def _apply_inverted_gamma(patches: Tensor, gammas: list[tuple[float, ...]]) -> Tensor:
    return -_apply_gamma(-patches, gammas)


def _to_factors(factors: list[tuple[float, ...]], patches: Tensor) -> Tensor:
    """``(b, C, 1, 1, 1)``."""
    return to_device(_give_each_channel(factors, patches.shape[1]), patches.device)[..., None, None, None]


def _give_each_channel(drawn: list[tuple[_Drawn, ...]], num_channels: int) -> list[tuple[_Drawn, ...]]:
    given = [values * num_channels if len(values) == 1 else values for values in drawn]
    wrong = [len(values) for values in given if len(values) != num_channels]
    if wrong:
        msg = f"A change has {wrong[0]} values for {num_channels} channels; give one, or one per channel."
        raise ValueError(msg)
    return given


_STEPS: tuple[tuple[str, Callable[[Tensor, list[Any]], Tensor]], ...] = (
    ("motion", _apply_each(apply_motion)),
    ("ghosting", _apply_each(apply_ghosting)),
    ("bias_field", _apply_each(apply_bias_field)),
    ("anisotropy", _apply_each(apply_anisotropy)),
    ("noise", _apply_each(_add_noise)),
    ("blur_sigmas", _blur),
    ("brightness", _multiply),
    ("contrast", _stretch),
    ("low_resolution", _apply_each(_lower_resolution)),
    ("inverted_gamma", _apply_inverted_gamma),
    ("gamma", _apply_gamma),
)
