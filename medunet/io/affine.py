"""What every affine that enters must fulfil, in RAS+ mm, and the step from and to the LPS of DICOM and ITK."""

from __future__ import annotations

import math

import numpy as np

from medunet.errors import VolumeError
from medunet.volume import Affine

SHEAR_TOLERANCE_DEGREES = 0.5
LPS_FROM_RAS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns RAS+ into LPS+ millimetres and back; it is its own inverse."""

_LARGEST_MM, _SMALLEST_MM = 1e7, 1e-7  # ten kilometres and an ångström: garbage beyond, and float32 overflows soon


def check_affine(affine: Affine, name: str) -> Affine:
    """The same affine, if a volume can stand on it.

    Raises:
        VolumeError: If it is not finite, singular or sheared.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        msg = f"{name} has an affine with NaN or infinite entries; expected 4x4 finite numbers. Repair its header."
        raise VolumeError(msg)
    if np.abs(affine).max() > _LARGEST_MM:
        largest = f"{np.abs(affine).max():.3g} mm"
        msg = (
            f"{name} has an affine with entries up to {largest}; expected {_LARGEST_MM:.0e} at most. Repair its header."
        )
        raise VolumeError(msg)
    matrix = affine[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if lengths.min() < _SMALLEST_MM or abs(np.linalg.det(matrix / lengths)) < 1e-3:
        msg = f"{name} has a singular affine {matrix.tolist()}; expected three independent axes. Repair its header."
        raise VolumeError(msg)
    axes = matrix / lengths
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    shear_degrees = math.degrees(math.asin(min(1.0, cosines)))
    if shear_degrees > SHEAR_TOLERANCE_DEGREES:
        msg = (
            f"{name} has a sheared affine (axes {shear_degrees:.1f} degrees from square); expected axes at right "
            "angles. Resample it to a rectangular grid first."
        )
        raise VolumeError(msg)
    return affine
