"""The phantom `male-pelvis-ct`: a planning CT of a man's pelvis, drawn on the grid of a random scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.phantoms.case import PhantomCase
from medunet.phantoms.ct_noise import sample_ct_noise, sample_streaks
from medunet.phantoms.deformation import sample_field
from medunet.phantoms.grid import Floats, Grid, Points
from medunet.phantoms.pelvis_anatomy import PelvisAnatomy, Pose, sample_anatomy
from medunet.phantoms.pelvis_background import AIR_HU, draw_soft_tissue
from medunet.phantoms.pelvis_bones import METAL_HU, draw_bones
from medunet.phantoms.pelvis_organs import draw_organs
from medunet.phantoms.shapes import ramp
from medunet.volume import Volume

_STREAM = 1  # keeps the random numbers of the phantoms apart


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """How the scanner looked at the patient.

    Attributes:
        grid: Voxel grid of the scan.
        noise_hu: Standard deviation of the noise in the middle of the body.
        peak_per_mm: Spatial frequency with the most noise; larger for sharper kernels.
        blur_mm: Standard deviation of the in-plane blur of the kernel.
        slice_overlap: Part of each neighbouring slice that a slice sees.
        table_y: World y of the table top, mm.
    """

    grid: Grid
    noise_hu: float
    peak_per_mm: float
    blur_mm: float
    slice_overlap: float
    table_y: float


def make_male_pelvis_ct(seed: int) -> PhantomCase:
    """The case of a seed."""
    rng = np.random.default_rng([seed, _STREAM])
    anatomy = sample_anatomy(rng)
    acquisition = sample_acquisition(rng, anatomy)
    image, labels = render_pelvis(anatomy, acquisition)
    return PhantomCase(case_id=f"pelvis_{seed:03d}", image=image, labels=labels)


def sample_acquisition(rng: np.random.Generator, anatomy: PelvisAnatomy) -> Acquisition:
    """Draw the scanner's settings for a patient."""
    x, y, z = anatomy.pose.position
    width = 2 * anatomy.body.half_width * anatomy.pose.scale[0] + rng.uniform(15, 50)
    depth = 2 * anatomy.body.half_depth * anatomy.pose.scale[1] + rng.uniform(45, 60)
    spacing = round(rng.uniform(max(0.9, width / 410), 1.4), 3)
    thickness = round(rng.uniform(2.2, 3.0), 1)
    bottom = z - rng.uniform(78, 92)
    organs = anatomy.organs
    bladder_top = z + (organs.bladder_center[2] + organs.bladder_radii[2]) * anatomy.pose.scale[2]
    length = max(rng.uniform(152, 186), bladder_top + 12 - bottom)
    shape = (round(width / spacing), round(depth / spacing), round(length / thickness))
    middle = (x + rng.uniform(-8, 8), y - 18 + rng.uniform(-4, 4), bottom + length / 2)
    orientation = "LPS" if rng.uniform() < 0.75 else "RAS"
    grid = Grid.around(middle, shape=shape, spacing=(spacing, spacing, thickness), orientation=orientation)
    return Acquisition(
        grid=grid,
        noise_hu=rng.uniform(10, 20),
        peak_per_mm=rng.uniform(0.14, 0.22),
        blur_mm=rng.uniform(0.5, 0.9),
        slice_overlap=rng.uniform(0.05, 0.15),
        table_y=y - (14 + anatomy.body.half_depth) * anatomy.pose.scale[1] - rng.uniform(0, 3),
    )


def render_pelvis(anatomy: PelvisAnatomy, acquisition: Acquisition) -> tuple[Volume, Volume]:
    """Draw a patient on a grid.

    Returns:
        Image, ``(1, I, J, K)`` int16 HU, and truth, ``(1, I, J, K)`` uint8.
    """
    grid = acquisition.grid
    rng = np.random.default_rng([anatomy.texture_seed, _STREAM])
    points = compute_points(grid, anatomy.pose)
    texture = _sample_texture(rng, grid)
    hu = draw_soft_tissue(points, anatomy, texture)
    femur_hu = draw_bones(hu, points, anatomy.bones, texture)
    layers = draw_organs(points, anatomy, texture, femur_hu)
    hu *= 1 - layers.filled
    hu += layers.hu
    hu += _sample_drift(rng, grid) * ramp(hu, AIR_HU + 400, AIR_HU + 800)
    _draw_table(hu, grid, acquisition)
    hu = _blur(hu, acquisition)
    hu += _sample_noise(rng, points, acquisition)
    if anatomy.bones.prosthesis_side:
        _add_streaks(rng, hu, grid)
    image = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Volume(image[None], grid.affine), Volume(layers.compute_truth()[None], grid.affine)


def compute_points(grid: Grid, pose: Pose) -> Points:
    """Anatomical coordinates of every voxel."""
    x, y, z = (axis - np.float32(place) for axis, place in zip(grid.axes(), pose.position, strict=True))
    moves = [field.evaluate(x, y, z) for field in pose.deformation]
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    matrix = _compute_matrix(pose).astype(np.float32)
    turned = [(row[0] * x + row[1] * y) + (row[2] * z) + move for row, move in zip(matrix, moves, strict=True)]
    return Points(turned[0], turned[1], turned[2])


def _compute_matrix(pose: Pose) -> NDArray[np.float64]:
    """World offsets to anatomical offsets, without the deformation."""
    roll, pitch = math.radians(pose.roll_degrees), math.radians(pose.pitch_degrees)
    about_z = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    return np.asarray(np.diag(1 / np.array(pose.scale)) @ about_x @ about_z)


def _sample_texture(rng: np.random.Generator, grid: Grid) -> Floats:
    """Fine structure of tissue: random blobs of about 4 mm, unit standard deviation."""
    from scipy.ndimage import uniform_filter

    texture = rng.standard_normal(grid.spatial_shape, dtype=np.float32)
    for _ in range(2):
        texture = uniform_filter(texture, size=(3, 3, 2), mode="wrap")
    return np.asarray(texture / texture.std())


def _sample_drift(rng: np.random.Generator, grid: Grid) -> Floats:
    """Slow differences of a few HU across the body, as beam hardening and scatter leave them."""
    middle = [float(axis.mean()) for axis in grid.axes()]
    field = sample_field(rng, half_size=(220.0, 170.0, 110.0), knot_spacing=(35.0, 35.0, 40.0), amplitude=7.0)
    x, y, z = (axis - np.float32(place) for axis, place in zip(grid.axes(), middle, strict=True))
    return field.evaluate(x, y, z)


def _draw_table(hu: Floats, grid: Grid, acquisition: Acquisition) -> None:
    """A hollow curved couch below the back, only where there is air."""
    x, y, _ = grid.axes()
    middle = x.mean()
    top = np.float32(acquisition.table_y) + ((x - middle) / 200) ** 2 * 14
    depth = top[:, None] - y[None, :]  # mm below the couch top, (I, J)
    wide = np.abs(x - middle)[:, None] < 215
    shell = wide * (ramp(depth, -0.5, 0.5) * ramp(depth, 3.5, 2.5))
    core = wide * (ramp(depth, 2.5, 3.5) * ramp(depth, 26, 25))
    couch = (shell * 850 + core * 80).astype(np.float32)[:, :, None]
    air = hu < -900
    hu += air * couch


def _blur(hu: Floats, acquisition: Acquisition) -> Floats:
    """The kernel's blur in the slice and the slice profile across."""
    from scipy.ndimage import gaussian_filter1d

    sigma = acquisition.blur_mm / float(abs(acquisition.grid.affine[0, 0]))
    for axis in (0, 1):
        hu = gaussian_filter1d(hu, sigma, axis=axis, truncate=2.5, mode="nearest")
    part = np.float32(acquisition.slice_overlap)
    blurred = hu * (1 - 2 * part)
    blurred[:, :, 1:] += part * hu[:, :, :-1]
    blurred[:, :, :-1] += part * hu[:, :, 1:]
    blurred[:, :, 0] += part * hu[:, :, 0]
    blurred[:, :, -1] += part * hu[:, :, -1]
    return np.asarray(blurred)


def _sample_noise(rng: np.random.Generator, points: Points, acquisition: Acquisition) -> Floats:
    """Noise, strongest in the middle of the body where the fewest photons arrive."""
    grid = acquisition.grid
    spacing = float(abs(grid.affine[0, 0])), float(abs(grid.affine[1, 1]))
    noise = sample_ct_noise(rng, grid.spatial_shape, spacing, peak_per_mm=acquisition.peak_per_mm)
    middle = points.z.shape[2] // 2
    x, y = points.x[:, :, middle], points.y[:, :, middle]
    strength = 0.45 + 0.55 * np.exp(-((x / 150) ** 2) - ((y + 10) / 95) ** 2)
    noise *= (acquisition.noise_hu * strength).astype(np.float32)[:, :, None]
    return noise


def _add_streaks(rng: np.random.Generator, hu: Floats, grid: Grid) -> None:
    """Streaks in every slice with metal, the stronger the more of it."""
    x, y, _ = grid.axes()
    for k in range(hu.shape[2]):
        metal = np.argwhere(hu[:, :, k] > 0.7 * METAL_HU)
        if len(metal):
            i, j = metal.mean(axis=0).astype(int)
            area_mm2 = len(metal) * abs(grid.affine[0, 0] * grid.affine[1, 1])
            strength_hu = 110 * min(1.0, area_mm2 / 1500) + 15
            streaks = sample_streaks(rng, x[:, None] - x[i], y[None, :] - y[j], strength_hu=strength_hu)
            hu[:, :, k] += streaks * ramp(hu[:, :, k], AIR_HU + 100, AIR_HU + 500)
