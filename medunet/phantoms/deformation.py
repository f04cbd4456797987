"""Smooth random fields: cubic B-splines on a coarse lattice of random values.

A field is a function of the place in mm, not of the voxel, so the same anatomy can be drawn on any grid (the way of
free-form deformations, Rueckert et al. 1999, doi:10.1109/42.796284).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.phantoms.grid import Floats, Vector


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A random function of the place.

    Attributes:
        values: Lattice values, ``(A, B, C)`` float32; outside the lattice the field fades to 0.
        corner: Place of the first lattice point, mm.
        knot_spacing: Distance between lattice points along x, y, z, mm.
    """

    values: Floats
    corner: Vector
    knot_spacing: Vector

    def evaluate(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """The field on the grid spanned by three axes in mm, ``(I, J, K)`` float32."""
        weights = [
            _compute_weights((axis - corner) / step, n)
            for axis, corner, step, n in zip((x, y, z), self.corner, self.knot_spacing, self.values.shape, strict=True)
        ]
        # einsum without BLAS, so that the number of threads cannot change the last bit.
        partial = np.einsum("ia,abc->ibc", weights[0], self.values, optimize=False)
        partial = np.einsum("jb,ibc->ijc", weights[1], partial, optimize=False)
        return np.asarray(np.einsum("kc,ijc->ijk", weights[2], partial, optimize=False))


def sample_field(rng: np.random.Generator, *, half_size: Vector, knot_spacing: Vector, amplitude: float) -> SmoothField:
    """Draw a field around the origin.

    Args:
        rng: Source of randomness.
        half_size: The field covers from minus to plus this, mm.
        knot_spacing: Distance between lattice points, mm: about half the wavelength of the finest detail.
        amplitude: Standard deviation of the lattice values, which are cut at twice this.
    """
    counts = [int(np.ceil(2 * half / step)) + 3 for half, step in zip(half_size, knot_spacing, strict=True)]
    values = np.clip(rng.standard_normal(counts, dtype=np.float32), -2, 2) * np.float32(amplitude)
    x, y, z = (-half - step for half, step in zip(half_size, knot_spacing, strict=True))
    return SmoothField(values, (x, y, z), knot_spacing)


def _compute_weights(places: NDArray[np.floating], num_knots: int) -> Floats:
    """Cubic B-spline weight of every knot at every place, ``(places, knots)``."""
    far = np.abs(places[:, None] - np.arange(num_knots))
    near = 2 / 3 - far**2 + far**3 / 2
    tail = np.maximum(2 - far, 0) ** 3 / 6
    return np.asarray(np.where(far < 1, near, tail), dtype=np.float32)
