"""The phantoms of pictures: a section through packed cells, grey as under an electron microscope, or stained and in colour.

Cells are the warped Voronoi cells of points of a shaken lattice; what lies within some pixels of a border between two of them
is membrane. Both phantoms of a seed show the same cells. In the manner of the ISBI 2012 challenge
(doi:10.3389/fnana.2015.00142): organelles within the cells are as dark as membranes, which alone are looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunet.phantoms.case import PhantomCase
from medunet.phantoms.deformation import sample_field
from medunet.phantoms.grid import Floats
from medunet.volume import Volume

CELL_LABELS = {"cell": 255}
"""The interior of cells, as the challenge stores it; membranes are the background."""
_STREAM = 3  # keeps the random numbers of the phantoms apart
_LATTICE = 22.0  # pixels between the middles of cells
_HAEMATOXYLIN, _EOSIN = (
    (0.95, 0.85, 0.40),
    (0.10, 0.80, 0.35),
)  # absorbance of red, green, blue: a blue and a pink stain


@dataclass(frozen=True, kw_only=True)
class CellSection:
    """What a section shows, ``(I, J)`` float32 each, from 0 to 1.

    Attributes:
        membrane: How much of a pixel is membrane.
        organelle: How much of it is an organelle.
        shade: How dark the cell is.
    """

    membrane: Floats
    organelle: Floats
    shade: Floats


def make_cells_microscopy(seed: int) -> PhantomCase:
    """The grey case of a seed."""
    rng = np.random.default_rng([seed, _STREAM])
    section = _sample_section(rng)
    dark = np.maximum(section.membrane, section.organelle)
    grey = 0.72 - 0.22 * section.shade - 0.45 * dark
    return _build_case(f"cells_{seed:03d}", _photograph(rng, grey[None]), section)


def make_stained_cells(seed: int) -> PhantomCase:
    """The coloured case of a seed: membranes and organelles blue, the rest of the cells pink."""
    rng = np.random.default_rng([seed, _STREAM])
    section = _sample_section(rng)
    blue = np.maximum(section.membrane, section.organelle)
    pink = (1 - section.membrane) * (0.25 + 0.35 * section.shade)
    absorbed = [blue * h + pink * e for h, e in zip(_HAEMATOXYLIN, _EOSIN, strict=True)]
    return _build_case(f"stained_{seed:03d}", _photograph(rng, 0.95 * np.exp(-np.stack(absorbed))), section)


def _sample_section(rng: np.random.Generator) -> CellSection:
    from scipy.spatial import cKDTree

    shape = (int(rng.integers(140, 171)), int(rng.integers(140, 171)))
    half = (max(shape) / 2 + 2 * _LATTICE,) * 2
    x, y = (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in shape)
    warps = [
        sample_field(rng, half_size=(*half, 1.0), knot_spacing=(14.0, 14.0, 2.0), amplitude=4.0).evaluate(
            x, y, np.zeros(1, np.float32)
        )[:, :, 0]
        for _ in range(2)
    ]
    ticks = np.arange(-half[0], half[0] + _LATTICE, _LATTICE)
    middles = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    middles += rng.uniform(-0.4, 0.4, middles.shape) * _LATTICE
    places = np.stack([x[:, None] + warps[0], y[None, :] + warps[1]], axis=-1).astype(np.float64)  # (I, J, 2)
    distances, cells = cKDTree(middles).query(places, k=2)
    to_border = (distances[..., 1] - distances[..., 0]) / 2
    half_thickness = float(rng.uniform(1.3, 1.9))
    shades = rng.uniform(0, 1, len(middles))
    return CellSection(
        membrane=_ramp(half_thickness + 0.5 - to_border),
        organelle=_draw_organelles(rng, middles, places, to_border),
        shade=shades[cells[..., 0]].astype(np.float32),
    )


def _draw_organelles(
    rng: np.random.Generator, middles: np.ndarray, places: np.ndarray, to_border: np.ndarray
) -> Floats:
    """A disc beside the middle of every other cell, away from its membrane."""
    from scipy.spatial import cKDTree

    chosen = middles[rng.random(len(middles)) < 0.5]
    chosen = chosen + rng.uniform(-2.5, 2.5, chosen.shape)
    radii = rng.uniform(2.0, 4.5, len(chosen))
    distances, nearest = cKDTree(chosen).query(places)
    return np.minimum(_ramp(radii[nearest] + 0.5 - distances), _ramp(to_border - 3.5))


def _ramp(inside: np.ndarray) -> Floats:
    """From 0 to 1 over a pixel."""
    return np.asarray(np.clip(inside, 0, 1), dtype=np.float32)


def _photograph(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Blur, uneven light, noise of the sensor, 8 bits: ``(C, I, J)`` uint8."""
    from scipy.ndimage import gaussian_filter

    sigma = float(rng.uniform(0.5, 0.8))
    gradient = rng.uniform(-0.12, 0.12, 2)
    i, j = (np.linspace(-0.5, 0.5, n) for n in light.shape[1:])
    uneven = 1 + gradient[0] * i[:, None] + gradient[1] * j[None, :]
    blurred = np.stack([gaussian_filter(channel, sigma) for channel in light]) * uneven
    noise = float(rng.uniform(0.03, 0.06)) * rng.standard_normal(light.shape)
    return np.asarray(np.clip(np.rint(255 * (blurred + noise)), 0, 255), dtype=np.uint8)


def _build_case(case_id: str, pixels: np.ndarray, section: CellSection) -> PhantomCase:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # as a picture without a pixel size is read
    truth = np.where(section.membrane < 0.5, CELL_LABELS["cell"], 0).astype(np.uint8)
    return PhantomCase(
        case_id=case_id, image=Volume(pixels[..., None], affine), labels=Volume(truth[None, ..., None], affine)
    )
