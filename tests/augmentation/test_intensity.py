"""Each change of intensities keeps what it promises to keep, and a patch does not depend on its batch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medunet.augmentation import AugmentationPolicy, IntensityChange, apply_intensity, sample_change
from medunet.augmentation.changes import Noise

NAMES = [field.name for field in fields(IntensityChange)]
ALWAYS = replace(
    AugmentationPolicy(channel_probability=1.0),
    **{field.name: 1.0 for field in fields(AugmentationPolicy) if field.name.endswith("_probability")},
)
NOTHING = IntensityChange()


def sample(shape: Any, seed: int = 0) -> IntensityChange:
    """All changes at once, for a patch ``(C, I, J, K)``."""
    rng = np.random.default_rng(seed)
    return sample_change(ALWAYS, rng, tuple(shape[1:]), (0.7, 1.2, 2.0), num_channels=shape[0]).intensity


def only(name: str, change: IntensityChange) -> IntensityChange:
    return IntensityChange(**{name: getattr(change, name)})


def make_patches(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apply(patches: Tensor, **change: Any) -> Tensor:
    """The same change to copies of all patches."""
    return apply_intensity(patches.clone(), [IntensityChange(**change)] * len(patches))


# ---- batches -----------------------------------------------------------------------------------------------------------


def test_without_a_change_nothing_changes() -> None:
    patches = make_patches(2, 1, 5, 6, 7)
    assert torch.equal(apply(patches), patches)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4, 2, 9, 10, 11), (3, 1, 1, 12, 10)])
def test_a_patch_does_not_depend_on_its_batch(name: str, shape: Any) -> None:
    """Every patch with its own values, one of them without a change, together and alone."""
    patches = make_patches(*shape)
    changes = [only(name, sample(shape[1:], seed)) for seed in range(len(patches) - 1)] + [NOTHING]
    together = apply_intensity(patches.clone(), changes)
    assert torch.isfinite(together).all()
    assert torch.equal(together[-1], patches[-1])
    for position, change in enumerate(changes):
        alone = apply_intensity(patches[position : position + 1].clone(), [change])
        assert torch.allclose(alone[0], together[position], atol=2e-6)
        assert torch.equal(together[position], patches[position]) == (change == NOTHING)


def test_changes_follow_each_other() -> None:
    """All at once is one after the other, in the order in which the fields are listed."""
    patches = make_patches(2, 2, 9, 10, 11)
    changes = [sample((2, 9, 10, 11), seed) for seed in range(2)]
    one_by_one = patches.clone()
    for name in NAMES:
        one_by_one = apply_intensity(one_by_one, [only(name, change) for change in changes])
    assert torch.equal(apply_intensity(patches.clone(), changes), one_by_one)
    backwards = patches.clone()
    for name in reversed(NAMES):
        backwards = apply_intensity(backwards, [only(name, change) for change in changes])
    assert not torch.allclose(backwards, one_by_one, atol=1e-3)


def test_patches_are_changed_in_place() -> None:
    patches = make_patches(2, 1, 4, 4, 4)
    assert apply_intensity(patches, [IntensityChange(brightness=(2.0,))] * 2) is patches


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "blur_sigmas", "low_resolution"])
def test_one_value_is_that_of_all_channels(name: str) -> None:
    patches = make_patches(1, 3, 8, 9, 10)
    (value,) = getattr(sample((1, 8, 9, 10)), name)
    assert torch.equal(apply(patches, **{name: (value,)}), apply(patches, **{name: (value,) * 3}))


def test_channels_have_their_own_values() -> None:
    patches = make_patches(1, 2, 6, 6, 6)
    changed = apply(patches, brightness=(1.0, 2.0), blur_sigmas=((0.0, 0.0, 0.0), (0.9, 0.9, 0.9)))
    assert torch.allclose(changed[:, 0], patches[:, 0])
    assert not torch.allclose(changed[:, 1], 2 * patches[:, 1], atol=0.1)


@pytest.mark.parametrize("name", ["brightness", "blur_sigmas", "low_resolution"])
def test_a_wrong_number_of_values_is_refused(name: str) -> None:
    change = only(name, sample((2, 4, 4, 4)))
    with pytest.raises(ValueError, match="2 values for 3 channels; give one, or one per channel"):
        apply_intensity(make_patches(1, 3, 4, 4, 4), [change])


@pytest.mark.parametrize("number", [1, 3])
def test_there_is_one_change_per_patch(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} changes for 2 patches; give one per patch"):
        apply_intensity(make_patches(2, 1, 4, 4, 4), [NOTHING] * number)


class _HostWaits(TorchDispatchMode):
    """Counts operations that make the host wait for a number of the device."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func.overloadpacket._qualified_op_name in {
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::masked_select",
        }
        return func(*args, **(kwargs or {}))


def test_the_host_never_asks_for_a_number() -> None:
    patches = make_patches(2, 2, 9, 10, 11)
    with _HostWaits() as waits:
        patches.max().item()
    assert waits.number == 1
    changes = [sample((2, 9, 10, 11), seed) for seed in range(2)]
    with _HostWaits() as waits:
        apply_intensity(patches, changes)
    assert waits.number == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "noise"])
@pytest.mark.parametrize("value", [0.5, -3.0])
def test_a_constant_stays_even(name: str, value: float) -> None:
    """Flat patches, such as air, become neither noise nor NaN."""
    patches = torch.full((1, 1, 6, 7, 8), value)
    changed = apply_intensity(patches.clone(), [only(name, sample((1, 6, 7, 8)))])
    assert changed.max() - changed.min() < 1e-5
    if name != "brightness":
        assert torch.allclose(changed, patches, atol=1e-5)


# ---- one by one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.1, 0.3])
def test_noise_has_its_deviation(deviation: float) -> None:
    patches = torch.zeros(1, 2, 32, 32, 16)
    noise, other = (apply(patches, noise=Noise(deviation=deviation, seed=seed)) for seed in (1, 2))
    assert noise.std().item() == pytest.approx(deviation, rel=4 * (0.5 / 32**3) ** 0.5)
    assert abs(noise.mean().item()) < 4 * deviation / 32**1.5
    assert abs(np.corrcoef(noise.flatten(), other.flatten())[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[0, 0].flatten(), noise[0, 1].flatten())[0, 1]) < 0.04  # channels differ


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    apply(make_patches(1, 1, 4, 4, 4), noise=Noise(deviation=0.1, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sigmas", [(0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.5, 0.0, 1.0)])
def test_blur_is_a_gaussian(sigmas: tuple[float, float, float]) -> None:
    """An impulse keeps its sum and its place, and gets the variance of the bell and of a voxel (less its cut tails)."""
    impulse = torch.zeros(1, 1, 15, 17, 19)
    impulse[0, 0, 7, 8, 9] = 1
    blurred = apply(impulse, blur_sigmas=(sigmas,))[0, 0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    for axis, centre in enumerate((7, 8, 9)):
        profile = blurred.sum(tuple(other for other in range(3) if other != axis))
        positions = torch.arange(len(profile)) - centre
        variance = sigmas[axis] ** 2 + 1 / 12 if sigmas[axis] > 0 else 0.0  # a voxel averages over its width
        assert (profile * positions).sum().item() == pytest.approx(0, abs=1e-5)
        assert (profile * positions**2).sum().item() == pytest.approx(variance, rel=0.03, abs=1e-6)


def test_blur_leaves_channels_and_a_lone_slice_apart() -> None:
    patches = torch.zeros(1, 2, 1, 9, 9)
    patches[0, 0, 0, 4, 4] = 1
    blurred = apply(patches, blur_sigmas=((1.0, 1.0, 1.0),))
    assert blurred[0, 0].sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred[0, 1] == 0).all()


def test_brightness_multiplies() -> None:
    patches = make_patches(1, 2, 4, 4, 4)
    assert torch.allclose(
        apply(patches, brightness=(0.75, 1.25)), patches * torch.tensor([0.75, 1.25])[:, None, None, None]
    )


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_stays_in_range(factor: float) -> None:
    patches = make_patches(1, 2, 9, 9, 9) * torch.tensor([1.0, 30.0]).reshape(1, 2, 1, 1, 1) + 5
    stretched = apply(patches, contrast=(factor,))
    for before, after in zip(patches[0], stretched[0], strict=True):
        assert after.min() >= before.min()
        assert after.max() <= before.max()
        assert (after.std() / before.std()).item() == pytest.approx(factor, rel=0.03)
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=0.02 * before.std().item())


def test_low_resolution_loses_detail_and_keeps_the_rest() -> None:
    ramp = torch.linspace(0, 1, 16).reshape(1, 1, 16, 1, 1).expand(1, 1, 16, 8, 8).contiguous()
    half = ((0.5, 0.5, 0.5),)
    assert (apply(ramp, low_resolution=half) - ramp).abs().max() < 0.08  # a voxel's step is 0.067
    stripes = torch.zeros(1, 1, 16, 8, 8)
    stripes[:, :, ::2] = 1
    assert apply(stripes, low_resolution=half).std() < 0.1 * stripes.std()
    for kept in (((1.0, 1.0, 1.0),), ((1.0, 0.5, 0.5),)):  # stripes run along the other axes
        assert torch.allclose(apply(stripes, low_resolution=kept), stripes)


@pytest.mark.parametrize("name", ["gamma", "inverted_gamma"])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_mean_deviation_and_order(name: str, gamma: float) -> None:
    patches = make_patches(1, 2, 8, 8, 8) * 20 + 3
    curved = apply(patches, **{name: (gamma,)})
    for before, after in zip(patches[0], curved[0], strict=True):
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=1e-3)
        assert after.std().item() == pytest.approx(before.std().item(), rel=1e-4)
        order = before.flatten().argsort()
        assert (after.flatten()[order].diff() >= -1e-4).all()
    assert torch.allclose(curved, patches, atol=1e-3) == (gamma == 1.0)


def test_gamma_bends_the_right_end() -> None:
    """Above 1 it spreads the bright end; inverted, the dark one."""
    patches = torch.linspace(-1, 1, 1000).reshape(1, 1, 10, 10, 10)
    usual, inverted = (apply(patches, **{name: (1.5,)}).flatten().diff() for name in ("gamma", "inverted_gamma"))
    assert usual[-1] > usual[0]
    assert inverted[-1] < inverted[0]
