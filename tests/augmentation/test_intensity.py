"""Each change of intensities keeps what it promises to keep, and a patch does not depend on its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medunet.augmentation import AugmentationPolicy, apply_intensity

NAMES = ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "inverted_gamma"]


def only(name: str | None, **ranges: Any) -> AugmentationPolicy:
    """A policy of which one thing always happens and the rest never."""
    probabilities = {f"{other}_probability": float(other == name) for other in NAMES}
    return AugmentationPolicy(**(probabilities | ranges))  # type: ignore[arg-type]


def make_patches(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apply(patches: Tensor, policy: AugmentationPolicy, seed: int = 0) -> Tensor:
    rngs = [np.random.default_rng([seed, position]) for position in range(len(patches))]
    return apply_intensity(patches.clone(), policy, rngs)


def test_without_a_change_nothing_changes() -> None:
    patches = make_patches(2, 1, 5, 6, 7)
    assert torch.equal(apply(patches, only(None)), patches)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4, 2, 9, 10, 11), (3, 1, 1, 12, 10)])
def test_a_patch_does_not_depend_on_its_batch(name: str, shape: Any) -> None:
    patches = make_patches(*shape)
    together = apply(patches, only(name))
    assert not torch.equal(together, patches)
    assert torch.isfinite(together).all()
    for position in range(len(patches)):
        rngs = [np.random.default_rng([0, position])]
        alone = apply_intensity(patches[position : position + 1].clone(), only(name), rngs)
        assert torch.equal(alone[0], together[position])


def test_patches_are_changed_in_place() -> None:
    patches = make_patches(2, 1, 4, 4, 4)
    rngs = [np.random.default_rng(n) for n in range(2)]
    assert apply_intensity(patches, only("brightness"), rngs) is patches


@pytest.mark.parametrize("name", [name for name in NAMES if name != "noise"])
def test_a_constant_stays_even(name: str) -> None:
    """Flat patches, such as air, become neither noise nor NaN."""
    changed = apply(torch.full((1, 1, 6, 6, 6), 0.5), only(name))
    assert changed.max() - changed.min() < 1e-5
    if name != "brightness":
        assert torch.allclose(changed, torch.tensor(0.5), atol=1e-5)


@pytest.mark.parametrize("variance", [0.01, 0.1])
def test_noise_has_its_variance(variance: float) -> None:
    patches = torch.zeros(1, 1, 32, 32, 32)
    noise = apply(patches, only("noise", noise_variance=(variance, variance)))
    assert noise.var().item() == pytest.approx(variance, rel=4 * (2 / 32**3) ** 0.5)
    assert abs(noise.mean().item()) < 4 * (variance / 32**3) ** 0.5
    other = apply(patches, only("noise", noise_variance=(variance, variance)), seed=1)
    assert abs(np.corrcoef(noise.flatten(), other.flatten())[0, 1]) < 0.03


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    apply(make_patches(1, 1, 4, 4, 4), only("noise"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_blur_is_a_gaussian(sigma: float) -> None:
    """An impulse keeps its sum and its place, and gets the variance of the kernel along every axis."""
    impulse = torch.zeros(1, 1, 15, 17, 19)
    impulse[0, 0, 7, 8, 9] = 1
    blurred = apply(impulse, only("blur", blur_sigma=(sigma, sigma)))[0, 0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    for axis, centre in enumerate((7, 8, 9)):
        profile = blurred.sum(tuple(other for other in range(3) if other != axis))
        positions = torch.arange(len(profile)) - centre
        assert (profile * positions).sum().item() == pytest.approx(0, abs=1e-5)
        assert (profile * positions**2).sum().item() == pytest.approx(sigma**2, rel=0.15)  # sampled at voxels


def test_blur_leaves_channels_and_a_lone_slice_apart() -> None:
    patches = torch.zeros(1, 2, 1, 9, 9)
    patches[0, 0, 0, 4, 4] = 1
    blurred = apply(patches, only("blur", blur_sigma=(1.0, 1.0)))
    assert blurred[0, 0].sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred[0, 1] == 0).all()


def test_brightness_multiplies() -> None:
    patches = make_patches(1, 2, 4, 4, 4)
    ratio = apply(patches, only("brightness", brightness=(0.75, 1.25))) / patches
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), atol=1e-5)
    assert 0.75 <= ratio.mean() <= 1.25


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_stays_in_range(factor: float) -> None:
    patches = make_patches(1, 2, 9, 9, 9) * torch.tensor([1.0, 30.0]).reshape(1, 2, 1, 1, 1) + 5
    stretched = apply(patches, only("contrast", contrast=(factor, factor)))
    for before, after in zip(patches[0], stretched[0], strict=True):
        assert after.min() >= before.min()
        assert after.max() <= before.max()
        assert (after.std() / before.std()).item() == pytest.approx(factor, rel=0.03)
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=0.02 * before.std().item())


def test_low_resolution_loses_detail_and_keeps_the_rest() -> None:
    ramp = torch.linspace(0, 1, 16).reshape(1, 1, 16, 1, 1).expand(1, 1, 16, 8, 8).contiguous()
    policy = only("low_resolution", low_resolution=(0.5, 0.5))
    assert (apply(ramp, policy) - ramp).abs().max() < 0.08  # a voxel's step is 0.067
    stripes = torch.zeros(1, 1, 16, 8, 8)
    stripes[:, :, ::2] = 1
    assert apply(stripes, policy).std() < 0.1 * stripes.std()
    whole = only("low_resolution", low_resolution=(1.0, 1.0))
    assert torch.allclose(apply(stripes, whole), stripes)


@pytest.mark.parametrize("name", ["gamma", "inverted_gamma"])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_mean_deviation_and_order(name: str, gamma: float) -> None:
    patches = make_patches(1, 2, 8, 8, 8) * 20 + 3
    curved = apply(patches, only(name, gamma=(gamma, gamma)))
    for before, after in zip(patches[0], curved[0], strict=True):
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=1e-3)
        assert after.std().item() == pytest.approx(before.std().item(), rel=1e-4)
        order = before.flatten().argsort()
        assert (after.flatten()[order].diff() >= -1e-4).all()
    assert torch.allclose(curved, patches, atol=1e-3) == (gamma == 1.0)


def test_gamma_bends_the_right_end() -> None:
    """Above 1 it spreads the bright end; inverted, the dark one."""
    patches = torch.linspace(-1, 1, 1000).reshape(1, 1, 10, 10, 10)
    usual, inverted = (
        apply(patches, only(name, gamma=(1.5, 1.5))).flatten().diff() for name in ("gamma", "inverted_gamma")
    )
    assert usual[-1] > usual[0]
    assert inverted[-1] < inverted[0]


def test_probabilities_are_kept() -> None:
    policy = only("blur", blur_probability=0.2)
    patches = make_patches(500, 1, 3, 3, 3)
    changed = (apply(patches, policy) != patches).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.2, abs=4 * 0.4 / 500**0.5)
