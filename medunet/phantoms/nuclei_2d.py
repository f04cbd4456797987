"""The phantom `nuclei-2d`: a fluorescence picture of nuclei, most of which touch another one; every nucleus has a value of its own."""

from __future__ import annotations

import numpy as np

from medunet.phantoms.case import PhantomCase
from medunet.volume import Array, Volume

NUCLEI_LABELS = {"nucleus": 1}
_STREAM = 3  # keeps the random numbers of the phantoms apart
_EDGE = 128
_TRIES = 400
_TOUCHING = 0.75
"""Share of tries that put a nucleus beside another one."""


def make_nuclei_2d(seed: int) -> PhantomCase:
    """The case of a seed."""
    rng = np.random.default_rng([seed, _STREAM])
    objects = place_nuclei(rng, (_EDGE, _EDGE), num_nuclei=int(rng.integers(22, 34)))
    image = _take_picture(rng, objects)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # as pictures without a place have it
    return PhantomCase(
        case_id=f"nuclei_{seed:03d}",
        image=Volume(image[None, :, :, None], affine),
        labels=Volume(objects[None, :, :, None], affine),
    )


def place_nuclei(rng: np.random.Generator, shape: tuple[int, int], *, num_nuclei: int) -> Array:
    """Ellipses that touch but do not overlap, ``(I, J)`` uint16: 0 is background, then 1, 2, 3.

    Args:
        rng: Draws them.
        shape: Of the picture.
        num_nuclei: Fewer where there is no room.
    """
    objects = np.zeros(shape, dtype=np.uint16)
    centers: list[tuple[float, float, float]] = []  # i, j, mean radius
    i, j = np.meshgrid(*map(np.arange, shape), indexing="ij")
    for _ in range(_TRIES):
        if len(centers) == num_nuclei:
            break
        radius, stretch, angle = rng.uniform(6, 10), rng.uniform(1, 1.4), rng.uniform(0, np.pi)
        center = rng.uniform(0, shape, 2)
        if centers and rng.random() < _TOUCHING:
            a, b, other = centers[int(rng.integers(len(centers)))]
            way = rng.uniform(0, 2 * np.pi)
            center = np.array([a, b]) + (radius + other) * 0.95 * np.array([np.cos(way), np.sin(way)])
        along = (i - center[0]) * np.cos(angle) + (j - center[1]) * np.sin(angle)
        across = (j - center[1]) * np.cos(angle) - (i - center[0]) * np.sin(angle)
        inside = (along / (radius * stretch**0.5)) ** 2 + (across * stretch**0.5 / radius) ** 2 <= 1
        if inside.sum() < 60 or (objects[inside] > 0).mean() > 0.1:
            continue
        objects[inside & (objects == 0)] = len(centers) + 1
        centers.append((float(center[0]), float(center[1]), float(radius)))
    return objects


def _take_picture(rng: np.random.Generator, objects: Array) -> Array:
    """Uneven brightness from nucleus to nucleus and within them, blur, and the noise of few photons."""
    from scipy.ndimage import gaussian_filter

    brightness = np.append(0.0, rng.uniform(0.6, 1.2, int(objects.max())))[objects]
    texture = gaussian_filter(rng.standard_normal(objects.shape), 2)
    signal = brightness * (1 + 0.15 * texture / texture.std())
    light = 0.08 + gaussian_filter(signal, rng.uniform(0.8, 1.3))
    photons = rng.uniform(60, 120)
    counts = rng.poisson(np.clip(light, 0, None) * photons) + rng.normal(20, 2, objects.shape)
    picture: Array = np.clip(np.rint(counts), 0, 255).astype(np.uint8)
    return picture
