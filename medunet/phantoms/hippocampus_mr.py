"""The phantom `hippocampus-mr`: small MR crops around one hippocampus, in the manner of MSD Task04."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunet.phantoms.case import PhantomCase
from medunet.phantoms.deformation import SmoothField, sample_field
from medunet.phantoms.grid import Floats, Grid, Points, Vector
from medunet.phantoms.shapes import Ellipsoid, build_tube, carve, compute_distance, compute_occupancy, ramp
from medunet.volume import Volume

HIPPOCAMPUS_LABELS = {"anterior": 1, "posterior": 2}
_STREAM = 2  # keeps the random numbers of the phantoms apart
_GREY, _WHITE, _FLUID = 0.56, 1.0, 0.12
_WIDEN = 1.3  # a hippocampus is wider than high


@dataclass(frozen=True, kw_only=True)
class HippocampusAnatomy:
    """One hippocampus and its surroundings; mm, origin in the middle of the crop.

    Attributes:
        nodes: Centre line from the head in front to the tail behind.
        radii: Radius at each node.
        border_y: Where the anterior part ends.
        border_tilt: How far the border leans, mm in y per mm in z.
        deformation: Displacement along x, y, z.
        folds: Positive in white matter, negative in cortex.
        fluid: Positive in the fluid of the cisterns.
        grey: Intensity of the hippocampus, white matter being 1.
    """

    nodes: tuple[Vector, ...]
    radii: tuple[float, ...]
    border_y: float
    border_tilt: float
    deformation: tuple[SmoothField, SmoothField, SmoothField]
    folds: SmoothField
    fluid: SmoothField
    grey: float


def make_hippocampus_mr(seed: int) -> PhantomCase:
    """The case of a seed."""
    rng = np.random.default_rng([seed, _STREAM])
    anatomy = sample_hippocampus(rng)
    shape = (int(rng.integers(32, 40)), int(rng.integers(46, 55)), int(rng.integers(30, 41)))
    center = (float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2)), float(rng.uniform(-1, 1)))
    grid = Grid.around(center, shape=shape, spacing=(1.0, 1.0, 1.0), orientation="RAS")
    signal, truth = render_hippocampus(anatomy, grid)
    image = _acquire(rng, signal, grid)
    # MSD crops start at the origin; the place in the head is not kept.
    affine = grid.affine.copy()
    affine[:3, 3] = (1.0, 1.0, 1.0)
    return PhantomCase(
        case_id=f"hippocampus_{seed:03d}", image=Volume(image[None], affine), labels=Volume(truth[None], affine)
    )


def sample_hippocampus(rng: np.random.Generator) -> HippocampusAnatomy:
    """Draw one anatomy."""
    y = np.array([15.0, 9.0, 2.0, -5.0, -11.0, -16.0]) * rng.uniform(0.92, 1.08)
    x = np.array([-3.0, -1.0, 1.0, 1.5, 0.0, -4.0]) * rng.uniform(0.6, 1.4) + rng.normal(0, 0.7, 6)
    z = np.array([-4.5, -4.5, -2.0, 1.0, 4.0, 6.5]) * rng.uniform(0.7, 1.3) + rng.normal(0, 0.5, 6)
    radii = np.array([5.2, 6.2, 5.2, 4.4, 3.9, 3.0]) * rng.uniform(0.82, 1.02) * rng.uniform(0.93, 1.07, 6)
    nodes = tuple((float(a), float(b), float(c)) for a, b, c in zip(x, y, z, strict=True))
    half_size = (26.0, 34.0, 26.0)
    fields = [sample_field(rng, half_size=half_size, knot_spacing=(9.0,) * 3, amplitude=1.3) for _ in range(3)]
    return HippocampusAnatomy(
        nodes=nodes,
        radii=tuple(radii.tolist()),
        border_y=float(rng.uniform(1.0, 5.0)),
        border_tilt=float(rng.uniform(-0.25, 0.25)),
        deformation=(fields[0], fields[1], fields[2]),
        folds=sample_field(rng, half_size=half_size, knot_spacing=(5.0,) * 3, amplitude=1.0),
        fluid=sample_field(rng, half_size=half_size, knot_spacing=(6.0,) * 3, amplitude=1.0),
        grey=float(rng.uniform(0.52, 0.6)),
    )


def render_hippocampus(anatomy: HippocampusAnatomy, grid: Grid) -> tuple[Floats, np.ndarray]:
    """Draw an anatomy on a grid.

    Returns:
        Signal with white matter at 1, ``(I, J, K)`` float32, and truth, ``(I, J, K)`` uint8.
    """
    points = _compute_points(anatomy, grid)
    narrow = Points(points.x * np.float32(1 / _WIDEN), points.y, points.z * np.float32(_WIDEN**0.5))
    body = compute_distance(narrow, build_tube(anatomy.nodes, anatomy.radii), smooth_mm=3, margin_mm=20)
    border = np.float32(anatomy.border_y) + np.float32(anatomy.border_tilt) * points.z - points.y  # below 0 in front
    parts = [compute_occupancy(np.maximum(body, border)), compute_occupancy(np.maximum(body, -border))]
    whole = compute_occupancy(body)
    signal = _compute_surroundings(anatomy, grid, points, body)
    # Bright and dark layers below the surface, of which 1 mm voxels show a hint.
    inside = np.float32(anatomy.grey) + np.float32(0.07) * np.cos(body * np.float32(1.5))
    signal += whole * (inside - signal)
    truth = np.where(parts[0] >= parts[1], 1, 2)
    return signal, np.where(whole > 0.5, truth, 0).astype(np.uint8)


def _compute_points(anatomy: HippocampusAnatomy, grid: Grid) -> Points:
    x, y, z = grid.axes()
    moves = [field.evaluate(x, y, z) for field in anatomy.deformation]
    return Points(x[:, None, None] + moves[0], y[None, :, None] + moves[1], z[None, None, :] + moves[2])


def _compute_surroundings(anatomy: HippocampusAnatomy, grid: Grid, points: Points, body: Floats) -> Floats:
    """Cortex and white matter, cisterns, the temporal horn beside the hippocampus, the amygdala in front of it."""
    x, y, z = grid.axes()
    signal = np.float32(_GREY) + ramp(anatomy.folds.evaluate(x, y, z), -0.12, 0.12) * np.float32(_WHITE - _GREY)
    near = ramp(body, 5, 1)  # mostly white matter wraps the hippocampus
    signal += near * np.float32(0.6) * (np.float32(_WHITE) - signal)
    fluid = ramp(anatomy.fluid.evaluate(x, y, z) - np.float32(0.08) * np.clip(body, 0, 4), 0.3, 0.42)
    signal += fluid * (np.float32(_FLUID) - signal)
    hx, hy, hz = anatomy.nodes[1]
    horn = compute_distance(
        points,
        build_tube(
            [(hx + 6, hy + 4, hz + 2), *[(a + 6, b, c + 2) for a, b, c in anatomy.nodes[2:5]]], [2.6, 2.2, 2, 2.2]
        ),
        smooth_mm=2,
        margin_mm=20,
    )
    signal += compute_occupancy(carve(horn, body)) * (np.float32(_FLUID) - signal)
    ambient = compute_distance(
        points, build_tube([(a - 6, b, c - 1) for a, b, c in anatomy.nodes[1:]], [1.6] * 5), smooth_mm=2
    )
    signal += compute_occupancy(carve(ambient, body)) * (np.float32(_FLUID) - signal)
    amygdala = Ellipsoid((hx - 1, hy + 10, hz + 7), (7.5, 6.5, 6.0)).distance(points)
    signal += compute_occupancy(amygdala) * (np.float32(_GREY + 0.02) - signal)
    return np.asarray(signal, dtype=np.float32)


def _acquire(rng: np.random.Generator, signal: Floats, grid: Grid) -> np.ndarray:
    """Blur, bias field, Rician noise, and a scale that means nothing, as MR has it."""
    from scipy.ndimage import gaussian_filter

    signal = gaussian_filter(signal, float(rng.uniform(0.4, 0.65)))
    bias = sample_field(rng, half_size=(26.0, 34.0, 26.0), knot_spacing=(30.0,) * 3, amplitude=0.2)
    signal = signal * np.exp(bias.evaluate(*grid.axes()))
    sigma = np.float32(rng.uniform(0.03, 0.07))
    real, imaginary = sigma * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    scale = np.float32(np.exp(rng.uniform(np.log(150), np.log(2500))))
    image = scale * np.hypot(signal + real, imaginary)
    return np.asarray(image, dtype=np.float32) if rng.uniform() < 0.7 else np.rint(image).astype(np.int16)
