"""The parameters of one synthetic male pelvis, and how they are drawn.

Anatomical coordinates in mm: the origin lies midway between the femoral heads, x grows to the patient's right, y to the
front, z to the head. Landmarks are typical of an adult man lying on his back; seeds vary sizes, fillings and positions,
and a smooth deformation moves everything together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.phantoms.deformation import SmoothField, sample_field
from medunet.phantoms.grid import Vector
from medunet.phantoms.shapes import to_vector


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How anatomical coordinates become world coordinates.

    Attributes:
        position: World place of the anatomical origin, mm.
        roll_degrees: Turn about the long axis of the body.
        pitch_degrees: Turn about the axis from left to right.
        scale: Size of the patient along x, y, z.
        deformation: Displacement along x, y, z.
    """

    position: Vector
    roll_degrees: float
    pitch_degrees: float
    scale: Vector
    deformation: tuple[SmoothField, SmoothField, SmoothField]


@dataclass(frozen=True, kw_only=True)
class BowelLoop:
    """A piece of bowel; mm."""

    nodes: tuple[Vector, ...]
    radius: float
    content_hu: float


@dataclass(frozen=True, kw_only=True)
class Body:
    """Outline and the tissue between skin and organs; all lengths in mm."""

    half_width: float
    half_depth: float
    fat_side: float
    fat_front: float
    fat_back: float
    cavity_scale: float
    vessel_hu: float
    muscle_hu: float
    fat_hu: float
    fat_plane: float
    """Width of the fat between two muscles."""
    bowel: tuple[BowelLoop, ...]


@dataclass(frozen=True, kw_only=True)
class Bones:
    """Hips and pelvis; all lengths in mm."""

    head_x: float
    head_radius: float
    cortical_hu: float
    trabecular_hu: float
    cortex: float
    prosthesis_side: int
    """-1 for a metal head on the left, 1 on the right, 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Organs:
    """The labelled soft organs; all lengths in mm."""

    prostate_center: Vector
    prostate_radii: Vector
    prostate_hu: float
    bladder_center: Vector
    bladder_radii: Vector
    bladder_wall: float
    urine_hu: float
    vesicle_radius: float
    vesicle_nodes: tuple[Vector, ...]
    vesicle_hu: float
    rectum_nodes: tuple[Vector, ...]
    rectum_radii: tuple[float, ...]
    rectum_wall: float
    gas_level: tuple[float, ...]
    """Per node: gas fills the lumen in front of this part of the radius; above 1 there is none, below -1 only gas."""
    stool_hu: float


@dataclass(frozen=True, kw_only=True)
class PelvisAnatomy:
    """Everything that makes one patient; `medunet.phantoms.male_pelvis_ct.render_pelvis` draws it on a grid."""

    pose: Pose
    body: Body
    bones: Bones
    organs: Organs
    texture_seed: int


def sample_anatomy(rng: np.random.Generator) -> PelvisAnatomy:
    """Draw one patient."""
    pose = _sample_pose(rng)
    bones = _sample_bones(rng, pose)
    organs = _sample_organs(rng, pose)
    body = _sample_body(rng, organs)
    return PelvisAnatomy(pose=pose, body=body, bones=bones, organs=organs, texture_seed=int(rng.integers(2**31)))


def _sample_pose(rng: np.random.Generator) -> Pose:
    fields = [
        sample_field(rng, half_size=(230.0, 170.0, 150.0), knot_spacing=(62.0, 55.0, 58.0), amplitude=amplitude)
        for amplitude in (5.0, 5.5, 5.5)
    ]
    size = rng.uniform(0.95, 1.05)
    return Pose(
        position=(rng.uniform(-12, 12), rng.uniform(-25, 25), rng.uniform(-900, 900)),
        roll_degrees=float(np.clip(rng.normal(0, 1.5), -4, 4)),
        pitch_degrees=float(np.clip(rng.normal(0, 3), -7, 7)),
        scale=(size * rng.uniform(0.97, 1.03), size * rng.uniform(0.97, 1.03), size * rng.uniform(0.97, 1.03)),
        deformation=(fields[0], fields[1], fields[2]),
    )


def _sample_bones(rng: np.random.Generator, pose: Pose) -> Bones:
    has_prosthesis = rng.uniform() < 1 / 8
    side = 1 if rng.uniform() < 0.5 else -1
    return Bones(
        head_x=rng.uniform(86, 94),
        head_radius=rng.uniform(23.4, 25.6) / math.prod(pose.scale) ** (1 / 3),
        cortical_hu=rng.uniform(850, 1150),
        trabecular_hu=rng.uniform(180, 320),
        cortex=rng.uniform(1.8, 2.8),
        prosthesis_side=side if has_prosthesis else 0,
    )


def _sample_body(rng: np.random.Generator, organs: Organs) -> Body:
    fat = rng.uniform(0.6, 1.5)
    return Body(
        half_width=rng.uniform(168, 180) + 9 * (fat - 1),
        half_depth=rng.uniform(106, 114) + 12 * (fat - 1),
        fat_side=19 * fat,
        fat_front=17 * fat,
        fat_back=24 * fat,
        cavity_scale=rng.uniform(0.94, 1.06),
        vessel_hu=rng.uniform(110, 170) if rng.uniform() < 0.35 else rng.uniform(38, 50),
        muscle_hu=rng.uniform(45, 60),
        fat_hu=rng.uniform(-112, -96),
        fat_plane=rng.uniform(0.9, 2.2),
        bowel=_sample_bowel(rng, organs),
    )


def _sample_bowel(rng: np.random.Generator, organs: Organs) -> tuple[BowelLoop, ...]:
    """Winding loops that lie on the bladder and on one another."""
    floor = max(organs.bladder_center[2] + organs.bladder_radii[2] + 4, 30)
    loops = []
    for _ in range(int(rng.integers(9, 15))):
        radius = rng.uniform(8, 14)
        place = np.array([rng.uniform(-62, 62), rng.uniform(-10, 50), rng.uniform(floor + radius, 128)])
        steps = rng.normal(0, 1, (3, 3)) * (17, 12, 7)
        nodes = place + np.vstack([np.zeros(3), np.cumsum(steps, axis=0)])
        nodes[:, 2] = np.maximum(nodes[:, 2], floor + radius)
        content_hu = rng.choice([25.0, 10.0, -30.0, -900.0, 220.0], p=[0.35, 0.25, 0.1, 0.22, 0.08])
        loops.append(
            BowelLoop(nodes=tuple(to_vector(node) for node in nodes), radius=radius, content_hu=float(content_hu))
        )
    return tuple(loops)


def _sample_organs(rng: np.random.Generator, pose: Pose) -> Organs:
    """Prostate first; the bladder sits on it, the vesicles behind both, the rectum behind all."""
    unit_ml = 1000 / math.prod(pose.scale)  # mm³ of anatomical space per ml in the world
    prostate_radii = _sample_radii(rng, float(np.exp(rng.uniform(np.log(27), np.log(56)))) * unit_ml, (1.22, 0.84, 1.0))
    prostate_center = (rng.normal(0, 1.2), 14 + rng.normal(0, 2), -24 + rng.normal(0, 3))
    base_z = prostate_center[2] + prostate_radii[2]
    back_y = prostate_center[1] - prostate_radii[1]

    bladder_ml = float(np.exp(rng.uniform(np.log(75), np.log(340))))
    flatness = np.interp(bladder_ml, [60, 350], [0.72, 0.95])
    bladder_radii = _sample_radii(rng, bladder_ml * unit_ml * 1.05, (1.15, 0.95, float(flatness)))
    bladder_center = (
        prostate_center[0] + rng.normal(0, 3),
        max(back_y + 2 + bladder_radii[1] * 0.93, prostate_center[1] + 3) + rng.normal(0, 1.5),
        base_z - 4 + bladder_radii[2] * 0.93,
    )
    nodes, radius = _sample_vesicles(rng, (prostate_center[0], back_y, base_z), unit_ml)
    rectum_nodes, rectum_radii, gas_level = _sample_rectum(rng, back_y, prostate_center, unit_ml)
    return Organs(
        prostate_center=prostate_center,
        prostate_radii=prostate_radii,
        prostate_hu=rng.uniform(33, 48),
        bladder_center=bladder_center,
        bladder_radii=bladder_radii,
        bladder_wall=rng.uniform(2.2, 3.4) + 60 / bladder_ml,
        urine_hu=rng.uniform(0, 15),
        vesicle_radius=radius,
        vesicle_nodes=nodes,
        vesicle_hu=rng.uniform(18, 36),
        rectum_nodes=rectum_nodes,
        rectum_radii=rectum_radii,
        rectum_wall=rng.uniform(2.8, 4.2),
        gas_level=gas_level,
        stool_hu=rng.uniform(10, 60),
    )


def _sample_radii(rng: np.random.Generator, volume_mm3: float, proportions: Vector) -> Vector:
    """Half-axes of an ellipsoid of this volume."""
    varied = [part * rng.uniform(0.94, 1.06) for part in proportions]
    scale = (volume_mm3 / (4 / 3 * math.pi * math.prod(varied))) ** (1 / 3)
    return scale * varied[0], scale * varied[1], scale * varied[2]


def _sample_vesicles(rng: np.random.Generator, root: Vector, unit_ml: float) -> tuple[tuple[Vector, ...], float]:
    """Centre line of the right vesicle from the middle outwards, and its radius; the left one is its mirror image."""
    length, rise = rng.uniform(27, 36), rng.uniform(4, 13)
    x, y, z = root
    sag = rng.uniform(1, 4)
    nodes = (
        (x + 3.5, y + 3.0, z + 2.0),
        (x + 0.35 * length, y + 0.5, z + 2 + 0.45 * rise),
        (x + 0.7 * length, y - sag, z + 2 + 0.8 * rise),
        (x + length, y - 1.2 * sag, z + 2 + rise),
    )
    half_mm3 = rng.uniform(6.5, 12.8) * unit_ml / 2
    return nodes, math.sqrt(half_mm3 / (math.pi * (length + 4)))


def _sample_rectum(
    rng: np.random.Generator, back_y: float, prostate: Vector, unit_ml: float
) -> tuple[tuple[Vector, ...], tuple[float, ...], tuple[float, ...]]:
    """Centre line from the anus up to where the colon turns to the front, radii and gas."""
    shape = np.array([0.55, 0.62, 0.95, 1.15, 1.1, 0.95, 0.8]) * rng.uniform(0.85, 1.2, 7)
    z = np.array([-78.0, -58.0, -38.0, -14.0, 10.0, 32.0, 50.0]) + rng.normal(0, 1.5, 7)
    bend = np.array([-13.0, -7.0, 0.0, -1.0, -13.0, -28.0, -34.0])  # how the sacrum draws it backwards
    target_mm3 = 0.92 * rng.uniform(46, 112) * unit_ml
    lengths = np.hypot(np.diff(z), np.diff(bend))
    radii = shape * math.sqrt(target_mm3 / float((math.pi * (shape[:-1] ** 2 + shape[1:] ** 2) / 2 * lengths).sum()))
    y = back_y + 1.5 - rng.uniform(0, 2.5) + bend - radii
    x = prostate[0] + rng.normal(0, 2.5, 7) * np.array([0, 0.3, 0.6, 1, 1.5, 2, 2.5])
    knots = np.column_stack([x, y, z, radii, _sample_gas(rng)])
    for _ in range(2):
        knots = _cut_corners(knots)
    return tuple(to_vector(knot[:3]) for knot in knots), tuple(knots[:, 3].tolist()), tuple(knots[:, 4].tolist())


def _cut_corners(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smoother line with twice as many knots between the same ends (Chaikin 1974)."""
    first, second = knots[:-1] * 0.75 + knots[1:] * 0.25, knots[:-1] * 0.25 + knots[1:] * 0.75
    inner = np.stack([first, second], axis=1).reshape(-1, knots.shape[1])
    return np.vstack([knots[:1], inner[1:-1], knots[-1:]])


def _sample_gas(rng: np.random.Generator) -> NDArray[np.float64]:
    """Mostly stool, mostly gas, or some of both, changing smoothly along the rectum."""
    middle = rng.choice([1.3, 0.3, -0.9], p=[0.35, 0.4, 0.25])
    steps = rng.normal(0, 0.5, 7)
    return np.asarray(middle + (steps + np.roll(steps, 1)) / 1.4)
