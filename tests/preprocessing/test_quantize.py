"""16 bits are enough, or float32 is kept; 0 stays 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.preprocessing.quantize import choose_quantization
from medunet.volume import Array


def pass_through(image: Array) -> Array:
    quantization = choose_quantization(image)
    assert quantization is not None
    stored = quantization.encode(image)
    assert stored.dtype == np.int16
    decoded = quantization.decode(torch.from_numpy(stored))
    assert decoded.dtype == torch.float32
    result: Array = decoded.numpy()
    return result


@settings(deadline=None)
@given(st.integers(0, 999), st.floats(1e-3, 1e4), st.floats(-50, 50))
def test_the_error_is_half_a_step_of_65000(seed: int, deviation: float, mean_in_deviations: float) -> None:
    rng = np.random.default_rng(seed)
    image = (rng.normal(mean_in_deviations, 1, (2, 6, 7, 5)) * deviation).astype(np.float32)
    error = np.abs(pass_through(image) - image).max(axis=(1, 2, 3))
    extent = np.ptp(image, axis=(1, 2, 3))
    rounding = 1e-6 * np.abs(image).max()
    assert (error <= 0.51 * extent / 65_000 + rounding).all()
    assert (error < 1e-4 * deviation + rounding).all()  # what the module says of ordinary channels


@pytest.mark.parametrize("value", [0.0, 55.0, -0.1, 3071.0])
def test_a_constant_is_exact(value: float) -> None:
    image = np.full((1, 2, 3, 4), value, np.float32)
    assert np.array_equal(pass_through(image), image)


def test_zero_stays_zero() -> None:
    """Around an MR image that was normalised within its nonzero voxels."""
    image = np.random.default_rng(0).normal(3, 1, (1, 8, 8, 8)).astype(np.float32)
    image[0, :3] = 0
    assert (pass_through(image)[0, :3] == 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda noise: np.where(np.arange(noise.size).reshape(noise.shape) == 0, 1e6, noise),  # one hot voxel
        lambda noise: noise * 1e-2 + 1e4,  # far from 0
    ],
    ids=["a few extreme voxels", "a large offset"],
)
def test_where_16_bits_are_too_few_there_is_none(make: Any) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 16, 16, 16))
    assert choose_quantization(make(noise).astype(np.float32)) is None
    ordinary = np.concatenate([noise, make(noise)]).astype(np.float32)
    assert choose_quantization(ordinary) is None  # one channel decides for all
