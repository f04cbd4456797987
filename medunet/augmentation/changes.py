"""What was drawn for one patch: plain data that any way of applying it understands, on any device and in any process.

Everything is drawn in a fixed order, whether it is used or not: the change of a patch depends on its generator only, and
one probability does not move the draws of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunet.augmentation.factors import sample_factors
from medunet.augmentation.policy import AugmentationPolicy
from medunet.augmentation.spatial import SpatialChange, list_rotation_axes, sample_spatial
from medunet.volume import Shape3, Spacing

BIAS_FIELD_ORDER = 3
NUM_BIAS_COEFFICIENTS = 20  # monomials in three variables up to the third order
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise: its deviation, and the seed of its voxels, which are drawn on the patch's device."""

    deviation: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Ghosting:
    """Every ``num_ghosts``-th plane of k-space along ``axis`` is dimmed by ``intensity`` (0 to 1), save the centre."""

    axis: int
    num_ghosts: int
    intensity: float


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The patient moves at certain times of the acquisition, which fills k-space along one axis.

    Attributes:
        axis: Along which k-space is filled.
        times: When, as ascending shares of the acquisition.
        degrees: Angles around the three axes after each motion.
        translation_mm: Shift along the three axes after each motion.
        spacing: Of the patch, mm.
    """

    axis: int
    times: tuple[float, ...]
    degrees: tuple[Triple, ...]
    translation_mm: tuple[Triple, ...]
    spacing: Spacing


@dataclass(frozen=True, kw_only=True)
class Anisotropy:
    """Slices that are ``factor`` times as thick along ``axis``."""

    axis: int
    factor: float


@dataclass(frozen=True, kw_only=True)
class IntensityChange:
    """What happens to the intensities of one patch, in this order; None: it does not happen.

    Tuples hold a value per channel; a single value holds for all channels.

    Attributes:
        motion: Of the patient.
        ghosting: Along one axis.
        bias_field: Coefficients of the field's logarithm, in TorchIO's order.
        anisotropy: Thick slices.
        noise: Added.
        blur_sigmas: In voxels along the three axes; 0 leaves the axis sharp.
        brightness: Factors.
        contrast: Factors around the mean.
        low_resolution: Factors of the number of voxels along the three axes; 1 leaves an axis as it is.
        inverted_gamma: Exponents, for the negative of the patch.
        gamma: Exponents.
    """

    motion: Motion | None = None
    ghosting: Ghosting | None = None
    bias_field: tuple[float, ...] | None = None
    anisotropy: Anisotropy | None = None
    noise: Noise | None = None
    blur_sigmas: tuple[Triple, ...] | None = None
    brightness: tuple[float, ...] | None = None
    contrast: tuple[float, ...] | None = None
    low_resolution: tuple[Triple, ...] | None = None
    inverted_gamma: tuple[float, ...] | None = None
    gamma: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PatchChange:
    """Everything that was drawn for one patch: where its voxels come from, then what happens to its intensities."""

    spatial: SpatialChange
    intensity: IntensityChange


def sample_change(
    policy: AugmentationPolicy,
    rng: np.random.Generator,
    patch_size: Shape3,
    spacing: Spacing,
    *,
    num_channels: int = 1,
) -> PatchChange:
    """Draw the change of one patch.

    Args:
        policy: Probabilities and ranges.
        rng: Decides everything; the same state gives the same change.
        patch_size: Of the patch; an axis of one voxel is left alone by everything.
        spacing: Of the patch, mm.
        num_channels: Channels get their own factors; with 1, all channels of a patch share them.
    """
    spatial = sample_spatial(policy, rng, patch_size, spacing)
    intensity = sample_intensity(policy, rng, patch_size, spacing, num_channels=num_channels)
    return PatchChange(spatial=spatial, intensity=intensity)


def sample_intensity(
    policy: AugmentationPolicy,
    rng: np.random.Generator,
    patch_size: Shape3,
    spacing: Spacing,
    *,
    num_channels: int = 1,
) -> IntensityChange:
    """Draw what happens to the intensities of one patch; for the arguments see `sample_change`."""
    happens = dict(zip(_PROBABILITIES, rng.random(len(_PROBABILITIES)), strict=True))
    drawn = {
        "motion": _sample_motion(policy, rng, patch_size, spacing),
        "ghosting": _sample_ghosting(policy, rng, patch_size),
        "bias_field": _sample_bias_field(policy, rng),
        "anisotropy": Anisotropy(axis=_sample_axis(rng, patch_size), factor=rng.uniform(*policy.anisotropy)),
        "noise": Noise(deviation=rng.uniform(*policy.noise_deviation), seed=int(rng.integers(2**31))),
        "blur_sigmas": _sample_sigmas(policy, rng, patch_size, num_channels),
        "brightness": sample_factors(rng, policy.brightness, num_channels),
        "contrast": sample_factors(rng, policy.contrast, num_channels),
        "low_resolution": _sample_resolutions(policy, rng, patch_size, spacing, num_channels),
        "inverted_gamma": sample_factors(rng, policy.gamma, num_channels),
        "gamma": sample_factors(rng, policy.gamma, num_channels),
    }
    kept = {name: value for name, value in drawn.items() if happens[name] < getattr(policy, _PROBABILITIES[name])}
    return IntensityChange(**kept)  # type: ignore[arg-type]


_PROBABILITIES = {
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


def _sample_axis(rng: np.random.Generator, patch_size: Shape3) -> int:
    """One of the axes that have more than one voxel."""
    axes = [axis for axis, size in enumerate(patch_size) if size > 1] or [0]
    return axes[int(rng.integers(len(axes)))]


def _sample_sigmas(
    policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3, num_channels: int
) -> tuple[Triple, ...]:
    sigmas = rng.uniform(*policy.blur_sigma, (num_channels, 3))
    sigmas[rng.random(num_channels) >= policy.channel_probability] = 0.0
    sigmas[:, [size == 1 for size in patch_size]] = 0.0
    return tuple((i, j, k) for i, j, k in sigmas.tolist())


def _sample_resolutions(
    policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3, spacing: Spacing, num_channels: int
) -> tuple[Triple, ...]:
    """One factor for all axes, but for the one across thick slices, of which there are too few already."""
    factors = rng.uniform(*policy.low_resolution, num_channels)
    factors[rng.random(num_channels) >= policy.channel_probability] = 1.0
    turning = policy.rotation_axes or list_rotation_axes(patch_size, spacing)
    thick = turning[0] if len(turning) == 1 else None
    triples = [[1.0 if axis == thick else factor for axis in range(3)] for factor in factors.tolist()]
    return tuple((i, j, k) for i, j, k in triples)


def _sample_bias_field(policy: AugmentationPolicy, rng: np.random.Generator) -> tuple[float, ...]:
    largest = policy.bias_field_coefficient
    return tuple(rng.uniform(-largest, largest, NUM_BIAS_COEFFICIENTS).tolist())


def _sample_ghosting(policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3) -> Ghosting:
    fewest, most = policy.num_ghosts
    return Ghosting(
        axis=_sample_axis(rng, patch_size),
        num_ghosts=int(rng.integers(fewest, most + 1)),
        intensity=rng.uniform(*policy.ghosting_intensity),
    )


def _sample_motion(
    policy: AugmentationPolicy, rng: np.random.Generator, patch_size: Shape3, spacing: Spacing
) -> Motion:
    """Times are evenly spread and shaken by up to 30 % of their distance, as TorchIO draws them."""
    n = policy.num_motions
    step = 1 / (n + 1)
    times = np.arange(1, n + 1) * step + rng.uniform(-0.3 * step, 0.3 * step, n)
    degrees = rng.uniform(-policy.motion_degrees, policy.motion_degrees, (n, 3))
    translation_mm = rng.uniform(-policy.motion_mm, policy.motion_mm, (n, 3))
    if 1 in patch_size:  # within the slice
        degrees[:, ~np.isin(range(3), list_rotation_axes(patch_size, spacing))] = 0.0
        translation_mm[:, [size == 1 for size in patch_size]] = 0.0
    return Motion(
        axis=_sample_axis(rng, patch_size),
        times=tuple(times.tolist()),
        degrees=tuple((i, j, k) for i, j, k in degrees.tolist()),
        translation_mm=tuple((i, j, k) for i, j, k in translation_mm.tolist()),
        spacing=spacing,
    )
