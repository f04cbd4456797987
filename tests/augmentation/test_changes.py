"""What is drawn: reproducible, within its ranges, as often as the policy says, and plain data."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from medunet.augmentation import AugmentationPolicy, IntensityChange, PatchChange, build_policy, sample_change

ONE_MM = (1.0, 1.0, 1.0)
PROBABILITIES = {
    "motion": "motion_probability",
    "ghosting": "ghosting_probability",
    "bias_field": "bias_field_probability",
    "anisotropy": "anisotropy_probability",
    "noise": "noise_probability",
    "blur_sigmas": "blur_probability",
    "brightness": "brightness_probability",
    "contrast": "contrast_probability",
    "low_resolution": "low_resolution_probability",
    "inverted_gamma": "inverted_gamma_probability",
    "gamma": "gamma_probability",
}
ALWAYS = replace(AugmentationPolicy(), **dict.fromkeys(PROBABILITIES.values(), 1.0))  # type: ignore[arg-type]


def sample(policy: AugmentationPolicy, seed: int = 0, size: Any = (8, 9, 10), spacing: Any = ONE_MM) -> PatchChange:
    return sample_change(policy, np.random.default_rng(seed), size, spacing, num_channels=2)


def sample_many(policy: AugmentationPolicy, number: int, **options: Any) -> list[IntensityChange]:
    return [sample(policy, seed, **options).intensity for seed in range(number)]


def test_ct_shows_no_artifact_of_mr() -> None:
    artifacts = ["motion", "ghosting", "bias_field", "anisotropy"]
    for name, probability in PROBABILITIES.items():
        ct, mr = getattr(build_policy("CT"), probability), getattr(build_policy("MR"), probability)
        if name in artifacts:
            assert ct == 0 < mr <= 0.1
        else:
            assert ct == mr > 0
    assert build_policy("CT") == AugmentationPolicy()


def test_the_same_generator_draws_the_same_change() -> None:
    assert sample(ALWAYS, 5).intensity == sample(ALWAYS, 5).intensity
    assert sample(ALWAYS, 5).intensity != sample(ALWAYS, 6).intensity


def test_a_change_travels_between_processes() -> None:
    change = sample(ALWAYS).intensity
    assert pickle.loads(pickle.dumps(change)) == change
    assert hash(change) == hash(pickle.loads(pickle.dumps(change)))


@pytest.mark.parametrize("name", PROBABILITIES)
def test_one_probability_does_not_move_the_others(name: str) -> None:
    always, without = sample(ALWAYS).intensity, sample(replace(ALWAYS, **{PROBABILITIES[name]: 0.0})).intensity  # type: ignore[arg-type]
    assert getattr(always, name) is not None
    assert without == replace(always, **{name: None})


def test_every_change_has_its_probability() -> None:
    """The names above are all there are, and each happens as often as its own probability says."""
    assert {field.name for field in fields(IntensityChange)} == set(PROBABILITIES)
    shares = np.linspace(0.1, 0.9, len(PROBABILITIES))
    policy = replace(AugmentationPolicy(), **dict(zip(PROBABILITIES.values(), shares, strict=True)))  # type: ignore[arg-type]
    changes = sample_many(policy, 1000)
    for name, share in zip(PROBABILITIES, shares, strict=True):
        happened = np.mean([getattr(change, name) is not None for change in changes])
        assert happened == pytest.approx(share, abs=4 * (share * (1 - share) / 1000) ** 0.5)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "inverted_gamma"])
def test_factors_lie_below_one_as_often_as_above(name: str) -> None:
    low, high = getattr(ALWAYS, "gamma" if "gamma" in name else name)
    factors = np.array([getattr(change, name) for change in sample_many(ALWAYS, 500)])
    assert factors.shape == (500, 2)
    assert low <= factors.min() < low + 0.01 * (high - low) + 0.01
    assert high >= factors.max() > high - 0.02
    assert np.mean(factors < 1) == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 4 / 500**0.5  # each channel its own


@pytest.mark.parametrize("bounds", [(0.5, 0.8), (1.2, 1.5), (1.0, 1.0)])
def test_ranges_on_one_side_of_one_are_kept(bounds: tuple[float, float]) -> None:
    factors = np.array([change.brightness for change in sample_many(replace(ALWAYS, brightness=bounds), 50)])
    assert bounds[0] <= factors.min() <= factors.max() <= bounds[1]


def test_half_of_the_channels_are_blurred_and_lowered() -> None:
    changes = sample_many(ALWAYS, 500)
    sigmas = np.array([change.blur_sigmas for change in changes])  # (500, C, 3)
    resolutions = np.array([change.low_resolution for change in changes])
    for stays in ((sigmas == 0).all(-1), (resolutions == 1).all(-1)):
        assert stays.mean() == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    blurred = sigmas[(sigmas > 0).all(-1)]
    assert 0.5 <= blurred.min() < 0.51
    assert 0.99 < blurred.max() <= 1.0
    assert (blurred[:, 0] != blurred[:, 1]).all()
    assert 0.5 <= resolutions.min() < 0.51


def test_thick_slices_are_not_thinned_out() -> None:
    factors = np.array([change.low_resolution for change in sample_many(ALWAYS, 50, spacing=(1.0, 1.0, 5.0))])
    assert (factors[..., 2] == 1).all()
    assert np.array_equal(factors[..., 0], factors[..., 1])
    assert factors[..., 0].min() < 0.7


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_of_one_voxel_is_left_alone(axis: int) -> None:
    size = [12, 14, 16]
    size[axis] = 1
    policy = replace(ALWAYS, mirror_axes=(0, 1, 2), mirror_probability=1.0)
    others = {0, 1, 2} - {axis}
    changes = [sample(policy, seed, tuple(size)) for seed in range(40)]
    assert all(set(change.spatial.mirrored_axes) == others for change in changes)
    drawn = [change.intensity for change in changes]
    assert {change.ghosting.axis for change in drawn if change.ghosting} == others
    assert {change.anisotropy.axis for change in drawn if change.anisotropy} == others
    assert {change.motion.axis for change in drawn if change.motion} == others
    assert (np.array([change.blur_sigmas for change in drawn])[..., axis] == 0).all()
    for change in drawn:
        assert change.motion is not None
        assert (np.array(change.motion.translation_mm)[:, axis] == 0).all()
        turns = np.array(change.motion.degrees)
        assert (turns[:, list(others)] == 0).all()
        assert (turns[:, axis] != 0).all()


def test_motion_keeps_its_ranges() -> None:
    for change in sample_many(replace(ALWAYS, num_motions=3), 100):
        motion = change.motion
        assert motion is not None
        assert 0 < motion.times[0] < motion.times[1] < motion.times[2] < 1
        assert np.abs(motion.degrees).max() <= 5
        assert np.abs(motion.translation_mm).max() <= 5
        assert len(motion.degrees) == len(motion.translation_mm) == 3


def test_ghosts_and_slices_keep_their_ranges() -> None:
    changes = sample_many(ALWAYS, 200)
    assert {change.ghosting.num_ghosts for change in changes if change.ghosting} == set(range(4, 11))
    assert all(0.2 <= change.ghosting.intensity <= 0.8 for change in changes if change.ghosting)
    assert all(1.5 <= change.anisotropy.factor <= 4 for change in changes if change.anisotropy)
    assert all(0 <= change.noise.deviation <= 0.1 for change in changes if change.noise)
    assert np.abs([change.bias_field for change in changes]).max() <= 0.3
    assert {len(change.bias_field) for change in changes if change.bias_field} == {20}


@pytest.mark.parametrize("axes", [(), (0,), (0, 1, 2), (1, 2)])
def test_mirrored_axes_are_drawn_one_by_one(axes: tuple[int, ...]) -> None:
    policy = replace(AugmentationPolicy(), mirror_axes=axes)
    changes = [sample(policy, seed).spatial for seed in range(400)]
    for axis in range(3):
        share = np.mean([axis in change.mirrored_axes for change in changes])
        assert share == pytest.approx(0.5 if axis in axes else 0.0, abs=4 * 0.5 / 400**0.5 if axis in axes else 0)
    assert all(change.is_mirrored == (0 in change.mirrored_axes) for change in changes)
    if len(axes) == 3:
        assert len({change.mirrored_axes for change in changes}) == 8


def test_the_numbers_are_nnunets() -> None:
    """As its trainer sets them (version 2): probability, range."""
    policy = AugmentationPolicy()
    assert (policy.rotation_probability, policy.rotation_degrees) == (0.2, 30)
    assert (policy.scaling_probability, policy.scaling) == (0.2, (0.7, 1.4))
    assert (policy.noise_probability, policy.noise_deviation) == (0.1, (0, 0.1))
    assert (policy.blur_probability, policy.channel_probability, policy.blur_sigma) == (0.2, 0.5, (0.5, 1.0))
    assert (policy.brightness_probability, policy.brightness) == (0.15, (0.75, 1.25))
    assert (policy.contrast_probability, policy.contrast) == (0.15, (0.75, 1.25))
    assert (policy.low_resolution_probability, policy.low_resolution) == (0.25, (0.5, 1.0))
    assert (policy.inverted_gamma_probability, policy.gamma_probability, policy.gamma) == (0.1, 0.3, (0.7, 1.5))
    assert (policy.mirror_probability, policy.mirror_axes) == (0.5, (0,))  # nnU-Net: all axes
