"""Preprocessed intensities as 16-bit integers: half the bytes, and an error that no network can see.

``intensity = (stored + zero) * step`` with whole ``zero``, so that an intensity of 0 stays exactly 0. The step is a
65,000th of a channel's range; where that is more than a hundredth of the channel's deviation without its extremes (a
range blown up by a few voxels), float32 is stored instead. So the error is at most half a hundredth of a deviation, and
where all voxels lie within ten deviations, as CT clipped to its window does, less than a ten-thousandth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medunet.volume import Array

_STEPS = 65_000
_SAMPLES = 100_000
_LARGEST_STEP = 0.01
_LARGEST_ZERO = 2**23
"""Beyond this, ``stored + zero`` is no longer exact in float32."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How stored integers become intensities.

    Attributes:
        step: Per channel; numbers that float32 holds exactly.
        zero: Whole numbers, per channel.
    """

    step: tuple[float, ...]
    zero: tuple[float, ...]

    def encode(self, image: Array) -> Array:
        """``(C, I, J, K)`` intensities as int16."""
        stored = np.empty(image.shape, np.int16)
        for channel, values, step, zero in zip(stored, image, self.step, self.zero, strict=True):
            channel[:] = np.rint(values / np.float32(step)) - np.float32(zero)
        return stored

    def decode(self, stored: Tensor) -> Tensor:
        """int16 ``(C, I, J, K)`` as float32 in new memory, on the same device."""
        image = stored.to(torch.float32)
        for channel, step, zero in zip(image, self.step, self.zero, strict=True):
            channel.add_(zero).mul_(step)  # plain numbers: no tensor travels to the device
        return image


def choose_quantization(image: Array) -> Quantization | None:
    """Steps for an image ``(C, I, J, K)``; None where 16 bits are not enough and float32 must be stored."""
    channels = [_choose_step(channel) for channel in image]
    if any(channel is None for channel in channels):
        return None
    step, zero = zip(*(channel for channel in channels if channel is not None), strict=True)
    return Quantization(step=step, zero=zero)


def _choose_step(values: Array) -> tuple[float, float] | None:
    low, high = float(values.min()), float(values.max())
    if low == high:  # stored as one step, exactly
        return (low, 1.0) if low else (1.0, 0.0)
    step = float(np.float32((high - low) / _STEPS))
    zero = float(np.rint((high + low) / 2 / step)) if step else np.inf
    is_fine = step <= _LARGEST_STEP * _compute_deviation(values) and abs(zero) < _LARGEST_ZERO
    return (step, zero) if is_fine else None


def _compute_deviation(values: Array) -> float:
    """Standard deviation with the most extreme hundredth pulled in, of a part of the voxels."""
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLES)]
    return float(sample.clip(*np.percentile(sample, [0.5, 99.5])).std(dtype=np.float64))
