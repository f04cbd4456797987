"""The plain-torch path beside MONAI and TorchIO: the same drawn parameters give the same patch.

Patches are anisotropic and of odd sizes, with intensities around zero and unit deviation; for geometry they are smooth.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medunet.augmentation import (
    AugmentationPolicy,
    IntensityChange,
    SpatialChange,
    apply_intensity,
    apply_spatial,
    compute_source_offsets,
    sample_change,
    warp_labels,
)
from medunet.augmentation.changes import Anisotropy, Noise
from medunet.augmentation.peers import apply_intensity_with_peers, apply_spatial_with_peers

GRIDS: list[Any] = [((17, 22, 31), (0.7, 1.2, 3.0)), ((21, 13, 16), (2.0, 0.8, 1.0)), ((19, 1, 24), (1.0, 4.0, 1.0))]
# Largest difference in units of the deviation: rounding of float32, but for the blur, whose weights MONAI cuts at four
# deviations without making them sum to 1.
TOLERANCES = {
    "motion": 1e-5,
    "ghosting": 5e-6,
    "bias_field": 1e-5,
    "blur_sigmas": 2e-4,
    "brightness": 1e-6,
    "contrast": 1e-6,
    "low_resolution": 1e-6,
    "inverted_gamma": 5e-6,
    "gamma": 5e-6,
}
ALWAYS = replace(
    AugmentationPolicy(),
    **{field.name: 1.0 for field in fields(AugmentationPolicy) if field.name.endswith("_probability")},
)


def make_patch(shape: Any, *, num_channels: int = 2) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij"))
    phases = torch.arange(1.0, num_channels + 1).reshape(-1, 1, 1, 1)
    waves = torch.sin(grid[0] / 3 + phases) + torch.cos(grid[1] / 4 * phases) + torch.sin(grid[2] / 5 + grid[0] / 7)
    return (waves - waves.mean((1, 2, 3), keepdim=True)) / waves.std((1, 2, 3), keepdim=True)


def make_rough_patch(shape: Any) -> Tensor:
    noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    return 0.8 * make_patch(shape) + 0.6 * noise


def sample(shape: Any, spacing: Any, seed: int) -> IntensityChange:
    return sample_change(ALWAYS, np.random.default_rng(seed), shape, spacing, num_channels=2).intensity


def compare(patch: Tensor, change: IntensityChange) -> tuple[Tensor, Tensor]:
    return apply_intensity(patch.clone()[None], [change])[0], apply_intensity_with_peers(patch.clone(), change)


# ---- intensities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOLERANCES)
@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_equal_to_monai_and_torchio(name: str, shape: Any, spacing: Any) -> None:
    patch = make_rough_patch(shape)
    for seed in range(3):
        change = IntensityChange(**{name: getattr(sample(shape, spacing, seed), name)})
        ours, theirs = compare(patch, change)
        assert (ours - patch).abs().max() > 0.01 or name in ("blur_sigmas", "low_resolution")  # some channels stay
        assert ours.shape == theirs.shape == patch.shape
        assert theirs.dtype == torch.float32
        assert (ours - theirs).abs().max() < TOLERANCES[name]


def test_every_change_is_compared() -> None:
    assert {field.name for field in fields(IntensityChange)} == set(TOLERANCES) | {"noise", "anisotropy"}


def test_blur_and_low_resolution_were_not_idle() -> None:
    patch = make_rough_patch((17, 22, 31))
    for change in (
        IntensityChange(blur_sigmas=((0.7, 1.0, 0.5), (0.0, 0.0, 0.9))),
        IntensityChange(low_resolution=((0.5, 0.6, 1.0), (0.7, 0.7, 0.7))),
    ):
        ours, theirs = compare(patch, change)
        assert ((ours - patch).abs().amax((1, 2, 3)) > 0.02).all()
        assert (ours - theirs).abs().max() < 3e-4


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [1.5, 2.0, 2.61, 3.87])
def test_anisotropy_is_torchios_between_the_outermost_slices(axis: int, factor: float) -> None:
    """Beyond them, at most one thick slice from each end, TorchIO fills with zeros."""
    shape = (17, 22, 31)
    patch = make_rough_patch(shape)
    ours, theirs = compare(patch, IntensityChange(anisotropy=Anisotropy(axis=axis, factor=factor)))
    rim = math.ceil(factor)
    inner = (slice(None), *[slice(rim, -rim) if other == axis else slice(None) for other in range(3)])
    assert (ours - patch)[inner].abs().max() > 0.03
    assert (ours - theirs)[inner].abs().max() < 1e-5


def test_noise_has_the_same_deviation() -> None:
    patch = torch.zeros(2, 24, 25, 26)
    ours, theirs = compare(patch, IntensityChange(noise=Noise(deviation=0.08, seed=5)))
    for noise in (ours, theirs):
        assert noise.std().item() == pytest.approx(0.08, rel=4 * (0.5 / noise.numel()) ** 0.5)
        assert abs(noise.mean().item()) < 4 * 0.08 / noise.numel() ** 0.5


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_all_changes_one_after_the_other(shape: Any, spacing: Any) -> None:
    """The order is the same, too; noise and anisotropy, which differ by definition, are left out."""
    patch = make_rough_patch(shape)
    change = replace(sample(shape, spacing, 7), noise=None, anisotropy=None)
    ours, theirs = compare(patch, change)
    assert (ours - patch).abs().max() > 0.2
    assert (ours - theirs).abs().max() < 5e-3


# ---- geometry ----------------------------------------------------------------------------------------------------------


def sample_spatial(shape: Any, spacing: Any, seed: int, *parts: str) -> SpatialChange:
    change = sample_change(ALWAYS, np.random.default_rng(seed), shape, spacing).spatial
    return SpatialChange(**{part: getattr(change, part) for part in parts})


def warp(patch: Tensor, codes: Tensor, change: SpatialChange, spacing: Any) -> tuple[Tensor, Tensor]:
    """As training changes a patch."""
    i, j, k = codes.shape
    offsets = compute_source_offsets(change, (i, j, k), spacing)
    assert offsets is not None
    coordinates = offsets + (torch.tensor([i, j, k]) - 1) / 2
    return apply_spatial(patch, coordinates, "bilinear"), warp_labels(codes, coordinates)


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
@pytest.mark.parametrize(
    ("parts", "tolerance", "share"),
    # The deformation is taken where TorchIO sees voxels on all sides. Together, the peers interpolate twice. The share is
    # that of voxels where the peers' linear interpolation of every label's own map has the same winner.
    [(["matrix"], 1e-5, 0.999), (["control_mm"], 1e-5, 0.999), (["matrix", "control_mm"], 0.12, 0.8)],
)
def test_turns_and_deformations_are_those_of_the_peers(
    shape: Any, spacing: Any, parts: list[str], tolerance: float, share: float
) -> None:
    patch, values = make_patch(shape), torch.tensor([0, 7, 255], dtype=torch.uint8)
    codes = values[(4 * make_patch(shape, num_channels=1)[0]).floor().long() % 3]  # bands of a few voxels
    one_hot = (codes == values.reshape(3, 1, 1, 1)).float()
    inner = (slice(None), *[slice(None) if size == 1 else slice(4, -4) for size in shape])
    num_moved = 0
    for seed in range(3):
        change = sample_spatial(shape, spacing, seed, *parts)
        ours, our_codes = warp(patch, codes, change, spacing)
        theirs, their_codes = apply_spatial_with_peers(patch, codes, change, spacing)
        votes, _ = apply_spatial_with_peers(one_hot, codes, change, spacing)
        num_moved += int((our_codes != codes)[inner[1:]].sum())
        assert (ours - patch)[inner].abs().max() > 0.1
        assert (ours - theirs)[inner].abs().max() < tolerance
        assert our_codes.dtype == their_codes.dtype == torch.uint8
        assert their_codes.shape == codes.shape
        assert set(their_codes.unique().tolist()) <= {0, 7, 255}
        assert (our_codes == values[votes.argmax(0)])[inner[1:]].float().mean() > share
    assert num_moved > 0.03 * codes[inner[1:]].numel()


def test_without_a_change_the_patch_comes_back() -> None:
    patch, codes = make_patch((5, 6, 7)), torch.zeros(5, 6, 7, dtype=torch.uint8)
    image, same = apply_spatial_with_peers(patch, codes, SpatialChange(mirrored_axes=(0,)), (1.0, 1.0, 1.0))
    assert torch.equal(image, patch)
    assert torch.equal(same, codes)
    assert torch.equal(apply_intensity_with_peers(patch, IntensityChange()), patch)


def test_the_input_and_the_global_generator_are_left_alone() -> None:
    shape, spacing = GRIDS[0]
    patch, untouched = make_patch(shape), make_patch(shape)
    codes = torch.ones(shape, dtype=torch.uint8)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    change = sample_change(ALWAYS, np.random.default_rng(1), shape, spacing, num_channels=2)
    apply_spatial_with_peers(patch, codes, change.spatial, spacing)
    apply_intensity_with_peers(patch, change.intensity)
    assert torch.equal(patch, untouched)
    assert (codes == 1).all()
    assert torch.equal(torch.get_rng_state(), before)
