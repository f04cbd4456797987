"""The same changes on a GPU: the same patches, and the host never waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from medunet.augmentation import (
    AugmentationPolicy,
    apply_intensity,
    apply_spatial,
    compute_source_offsets,
    sample_change,
    warp_labels,
)
from medunet.augmentation.transfer import to_device

SHAPE, SPACING = (17, 22, 31), (0.7, 1.2, 3.0)
ALWAYS = replace(
    AugmentationPolicy(channel_probability=1.0),
    **{field.name: 1.0 for field in fields(AugmentationPolicy) if field.name.endswith("_probability")},
)
CHANGES = [sample_change(ALWAYS, np.random.default_rng(seed), SHAPE, SPACING, num_channels=2) for seed in range(3)]


@contextmanager
def _host_must_not_wait() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_numbers_arrive_as_they_are() -> None:
    for device in (None, torch.device("cpu")):
        assert to_device([[0.5, 2.0], [3.0, 4.0]], device).tolist() == [[0.5, 2.0], [3.0, 4.0]]
        assert to_device(np.array([1.5, 2.5]), device).dtype == torch.float32
        assert to_device([3, 70_000_000_000], device).tolist() == [3, 70_000_000_000]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_intensities_on_a_gpu() -> None:
    """Noise is left out: each kind of device has its own random numbers."""
    device = torch.device("cuda")
    changes = [replace(change.intensity, noise=None) for change in CHANGES]
    patches = torch.randn((3, 2, *SHAPE), generator=torch.Generator().manual_seed(0))
    on_gpu = patches.to(device)
    apply_intensity(on_gpu.clone(), changes)  # plans of the Fourier transforms are made once
    with _host_must_not_wait():
        apply_intensity(on_gpu, [change.intensity for change in CHANGES])
        on_gpu = apply_intensity(patches.pin_memory().to(device, non_blocking=True), changes)
    assert torch.allclose(on_gpu.cpu(), apply_intensity(patches, changes), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_geometry_on_a_gpu() -> None:
    device = torch.device("cuda")
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((2, *SHAPE), generator=generator)
    codes = torch.randint(0, 117, SHAPE, generator=generator, dtype=torch.uint8)
    centre = (torch.tensor(SHAPE) - 1) / 2
    for change in CHANGES:
        offsets = compute_source_offsets(change.spatial, SHAPE, SPACING)
        assert offsets is not None
        coordinates = (offsets + centre).to(device)
        on_gpu, codes_on_gpu = image.to(device), codes.to(device)
        with _host_must_not_wait():
            offsets_on_gpu = compute_source_offsets(change.spatial, SHAPE, SPACING, device=device)
            warped = apply_spatial(on_gpu, coordinates, "bilinear")
            warped_codes = warp_labels(codes_on_gpu, coordinates)
        assert offsets_on_gpu is not None
        assert torch.allclose(offsets_on_gpu.cpu(), offsets, atol=1e-3)
        assert torch.allclose(warped.cpu(), apply_spatial(image, offsets + centre, "bilinear"), atol=1e-3)
        differs = warped_codes.cpu() != warp_labels(codes, offsets + centre)
        assert differs.float().mean() < 1e-3  # ties to rounding
