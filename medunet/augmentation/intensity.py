"""Noise, blur, brightness, contrast, low resolution and gamma on a batch that lies on its device, in plain torch.

Order and formulas are nnU-Net's (batchgeneratorsv2): noise, blur, brightness, contrast, low resolution, gamma.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation.policy import AugmentationPolicy


def apply_intensity(patches: Tensor, policy: AugmentationPolicy, rngs: list[np.random.Generator]) -> Tensor:
    """Change the intensities of every patch by its own draw.

    Args:
        patches: ``(B, C, I, J, K)`` float32; changed in place and returned.
        policy: Probabilities and ranges.
        rngs: One generator per patch, so that a patch does not depend on its batch.
    """
    for patch, rng in zip(patches, rngs, strict=True):
        patch.copy_(_change_patch(patch, policy, rng))
    return patches


def _change_patch(patch: Tensor, policy: AugmentationPolicy, rng: np.random.Generator) -> Tensor:
    if rng.random() < policy.noise_probability:
        patch = _add_noise(patch, rng.uniform(*policy.noise_variance), int(rng.integers(2**31)))
    if rng.random() < policy.blur_probability:
        patch = _blur(patch, rng.uniform(*policy.blur_sigma))
    if rng.random() < policy.brightness_probability:
        patch = patch * rng.uniform(*policy.brightness)
    if rng.random() < policy.contrast_probability:
        patch = _stretch(patch, rng.uniform(*policy.contrast))
    if rng.random() < policy.low_resolution_probability:
        patch = _lower_resolution(patch, rng.uniform(*policy.low_resolution))
    if rng.random() < policy.inverted_gamma_probability:
        patch = -_apply_gamma(-patch, rng.uniform(*policy.gamma))
    if rng.random() < policy.gamma_probability:
        patch = _apply_gamma(patch, rng.uniform(*policy.gamma))
    return patch


def _add_noise(patch: Tensor, variance: float, seed: int) -> Tensor:
    generator = torch.Generator(patch.device).manual_seed(seed)
    noise = torch.randn(patch.shape, generator=generator, device=patch.device, dtype=patch.dtype)
    return patch + noise * math.sqrt(variance)


def _blur(patch: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of three deviations; an axis of one voxel stays as it is."""
    radius = max(1, math.ceil(3 * sigma))
    positions = torch.arange(-radius, radius + 1, dtype=patch.dtype, device=patch.device)
    weights = torch.exp(-0.5 * (positions / sigma) ** 2)
    weights = weights / weights.sum()
    blurred = patch[:, None]  # (C, 1, I, J, K): channels as batch
    for axis in range(3):
        if patch.shape[1 + axis] == 1:
            continue
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = -1
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius  # F.pad starts with the last axis
        padded = F.pad(blurred, padding, mode="replicate")
        blurred = F.conv3d(padded, weights.reshape(shape))
    return blurred[:, 0]


def _stretch(patch: Tensor, factor: float) -> Tensor:
    """Contrast around each channel's mean, kept within its range."""
    axes = (1, 2, 3)
    mean = patch.mean(axes, keepdim=True)
    return ((patch - mean) * factor + mean).clamp(patch.amin(axes, keepdim=True), patch.amax(axes, keepdim=True))


def _lower_resolution(patch: Tensor, factor: float) -> Tensor:
    shape = list(patch.shape[1:])
    small = [max(1, round(size * factor)) for size in shape]
    lowered = F.interpolate(patch[None], size=small, mode="nearest-exact")
    return F.interpolate(lowered, size=shape, mode="trilinear", align_corners=False)[0]


def _apply_gamma(patch: Tensor, gamma: float) -> Tensor:
    """Gamma on each channel's range; mean and deviation are restored afterwards."""
    axes = (1, 2, 3)
    mean, std = patch.mean(axes, keepdim=True), patch.std(axes, keepdim=True)
    low = patch.amin(axes, keepdim=True)
    extent = (patch.amax(axes, keepdim=True) - low).clamp(min=1e-7)
    curved = ((patch - low) / extent) ** gamma * extent + low
    spread = curved.std(axes, keepdim=True).clamp(min=1e-7)
    return (curved - curved.mean(axes, keepdim=True)) / spread * std + mean
