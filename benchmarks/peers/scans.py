"""Scans to time inference on: a CT that no scanner made, and real ones brought to NIfTI for tools that read nothing else.

All files lie in R, A, S order, so that tools that turn scans and tools that do not show their networks the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medunet.io import read_volume, write_nifti_image
from medunet.volume import Shape3, Spacing, Volume, to_orientation

_AIR_HU, _NOISE_HU = -1000, 35
_ORGANS = (
    # centre and half axes as shares of the body's half axes and of the scan's length; HU
    ((0.0, 0.0, 0.5), (0.90, 0.86, 2.0), 50),  # muscle within fat
    ((0.45, 0.15, 0.75), (0.33, 0.55, 0.22), -800),  # lungs
    ((-0.45, 0.15, 0.75), (0.33, 0.55, 0.22), -800),
    ((0.05, 0.2, 0.72), (0.2, 0.3, 0.13), 130),  # heart
    ((0.35, 0.1, 0.48), (0.42, 0.5, 0.12), 105),  # liver
    ((-0.55, -0.15, 0.48), (0.2, 0.3, 0.08), 120),  # spleen
    ((0.33, -0.45, 0.38), (0.15, 0.2, 0.09), 170),  # kidneys
    ((-0.33, -0.45, 0.38), (0.15, 0.2, 0.09), 170),
    ((0.0, 0.35, 0.12), (0.22, 0.25, 0.07), 10),  # bladder
    ((0.38, -0.2, 0.12), (0.16, 0.35, 0.12), 450),  # hip bones
    ((-0.38, -0.2, 0.12), (0.16, 0.35, 0.12), 450),
    ((0.0, -0.62, 0.5), (0.11, 0.2, 2.0), 350),  # spine
    ((0.0, -0.33, 0.5), (0.06, 0.09, 2.0), 200),  # aorta
)


def write_phantom(path: Path, shape: Shape3, spacing: Spacing) -> None:
    """A torso of ellipsoids with noise, int16 in HU; the same voxels each time."""
    i, j, k = shape
    x = np.linspace(-1, 1, i, dtype=np.float32)[:, None] / 0.92
    y = np.linspace(-1, 1, j, dtype=np.float32)[None] / 0.62
    generator = np.random.default_rng(0)
    voxels = np.empty((1, *shape), np.int16)
    for index in range(k):
        plane = np.where(x**2 + y**2 < 1, -100.0, _AIR_HU).astype(np.float32)
        for (cx, cy, cz), (ax, ay, az), hu in _ORGANS:
            height = ((index + 0.5) / k - cz) / az
            if abs(height) >= 1:
                continue
            plane[((x - cx) / ax) ** 2 + ((y - cy) / ay) ** 2 + height**2 < 1] = hu
        noise = gaussian_filter(generator.standard_normal((i, j), dtype=np.float32), 0.7)
        plane += noise * (_NOISE_HU / noise.std())
        voxels[0, :, :, index] = np.maximum(plane, -1024)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-step * size / 2 for step, size in zip(spacing, shape, strict=True)]
    write_nifti_image(Volume(voxels, affine), path)


def write_real_scan(source: Path, path: Path) -> None:
    """A CT of any format that medunet reads, as NIfTI of int16 in R, A, S order."""
    scan = to_orientation(read_volume(source), "RAS")
    voxels = np.clip(np.rint(scan.array), -32768, 32767).astype(np.int16)
    write_nifti_image(Volume(voxels, scan.affine), path)


def compute_border_share(codes: np.ndarray) -> float:
    """Share of voxels ``(I, J, K)`` with another label beside them: how speckled a mask is.

    Example:
        >>> compute_border_share(np.array([[[0, 0, 0, 1]]]))
        0.5
    """
    is_border = np.zeros(codes.shape, bool)
    for axis in range(codes.ndim):
        ahead = [slice(None)] * codes.ndim
        behind = [slice(None)] * codes.ndim
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        differs = codes[tuple(ahead)] != codes[tuple(behind)]
        is_border[tuple(ahead)] |= differs
        is_border[tuple(behind)] |= differs
    return float(is_border.mean())
