"""CT noise as reconstruction leaves it: correlated, with little power at low frequencies.

Filtered back-projection multiplies by a ramp and a soft roll-off, so the noise power rises with the frequency, peaks
and falls (Riederer et al. 1978, doi:10.1088/0031-9155/23/3/007). Neighbouring slices share some of it.
Metal adds streaks.
"""

from __future__ import annotations

import numpy as np

from medunet.phantoms.grid import Floats


def sample_ct_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float], *, peak_per_mm: float
) -> Floats:
    """Noise of unit standard deviation.

    Args:
        rng: Source of randomness.
        shape: ``(I, J, K)``; I and J lie in the slice.
        spacing: In-plane voxel size, mm.
        peak_per_mm: Spatial frequency with the most power; larger for sharper kernels.

    Returns:
        ``(I, J, K)`` float32.
    """
    from scipy import fft

    padded = (fft.next_fast_len(shape[0], real=True), fft.next_fast_len(shape[1], real=True), shape[2])
    white = rng.standard_normal(padded, dtype=np.float32)
    gain = _compute_gain(padded[:2], spacing, peak_per_mm)
    noise = fft.irfft2(fft.rfft2(white, axes=(1, 0)) * gain[:, :, None], s=(padded[1], padded[0]), axes=(1, 0))
    noise = noise[: shape[0], : shape[1]]
    mixed = noise.copy()
    mixed[:, :, 1:] += np.float32(0.35) * noise[:, :, :-1]  # overlapping slice profiles
    return np.asarray(mixed / np.float32(np.sqrt(1 + 0.35**2)), dtype=np.float32)


def _compute_gain(shape: tuple[int, int], spacing: tuple[float, float], peak_per_mm: float) -> Floats:
    """Amplitude at each frequency, ``(I // 2 + 1, J)``, scaled so that white noise keeps its variance."""
    fx = np.fft.rfftfreq(shape[0], spacing[0])[:, None]
    fy = np.fft.fftfreq(shape[1], spacing[1])[None, :]
    frequency = np.sqrt(fx**2 + fy**2) / peak_per_mm
    gain = np.sqrt(frequency + 0.02) * np.exp(-(frequency**2) / 4)
    # All but the first (and, for even sizes, the last) of the half-spectrum stand for two frequencies.
    twice = np.full((gain.shape[0], 1), 2.0)
    twice[0] = 1
    if shape[0] % 2 == 0:
        twice[-1] = 1
    return np.asarray(gain / np.sqrt((twice * gain**2).sum() / (shape[0] * shape[1])), dtype=np.float32)


def sample_streaks(rng: np.random.Generator, x: Floats, y: Floats, *, strength_hu: float) -> Floats:
    """Streaks that fan out from metal at the origin of one slice, in HU.

    Args:
        rng: Source of randomness.
        x: mm right of the metal, ``(I, J)``.
        y: mm in front of the metal, ``(I, J)``.
        strength_hu: Their standard deviation close to the metal.
    """
    angle = np.arctan2(y, x)
    num_rays = 90
    rays = rng.standard_normal(num_rays).astype(np.float32)
    smooth = rays + np.roll(rays, 1)  # the last ray meets the first
    knots = np.linspace(-np.pi, np.pi, num_rays + 1)
    profile = np.interp(angle, knots, np.append(smooth, smooth[0])) - 0.8 * np.cos(2 * angle) ** 8
    return np.asarray(strength_hu * profile / (1 + np.hypot(x, y) / 45), dtype=np.float32)
