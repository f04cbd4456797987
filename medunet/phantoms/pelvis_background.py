"""The soft tissue without a label: skin, fat, muscle, pelvic floor, vessels, bowel."""

from __future__ import annotations

import numpy as np

from medunet.phantoms.grid import Floats, Points
from medunet.phantoms.pelvis_anatomy import Body, Organs, PelvisAnatomy
from medunet.phantoms.shapes import (
    Capsule,
    Ellipsoid,
    Shape,
    blend,
    build_tube,
    compute_distance,
    mirror_too,
    ramp,
    smooth_intersection,
    smooth_union,
    to_vector,
)

AIR_HU = -1000.0
GAS_HU = -900.0
_SKIN_MM = 2.0
_MIDDLE_Y = -12.0  # of the trunk, mm


def draw_soft_tissue(points: Points, anatomy: PelvisAnatomy, texture: Floats) -> Floats:
    """Draw everything but bones and labelled organs.

    Args:
        points: Anatomical coordinates.
        anatomy: The patient.
        texture: Fine random variation of unit size, ``(I, J, K)``.

    Returns:
        HU, ``(I, J, K)``.
    """
    body = anatomy.body
    outline = _compute_outline(points, body)
    hu = np.full(points.x.shape, AIR_HU, dtype=np.float32)
    blend(hu, outline, 20.0)
    blend(hu, outline + np.float32(_SKIN_MM), np.float32(body.fat_hu) + 4 * texture)
    blend(hu, outline + _compute_fat_thickness(points, body), _compute_muscle_hu(points, body, texture))
    _draw_cavity(hu, points, anatomy, texture)
    _draw_pelvic_floor(hu, points, anatomy, texture)
    _draw_vessels(hu, points, body)
    _draw_bowel(hu, points, anatomy, texture)
    return hu


# ---- outline and fat -------------------------------------------------------------------------------------------------


def _compute_outline(points: Points, body: Body) -> Floats:
    """Signed distance to the skin: trunk, thighs and buttocks, flattened by the couch."""
    trunk = smooth_intersection(_compute_trunk(points, body), np.float32(-70) - points.z, 24.0)
    outline = smooth_union(trunk, _compute_thighs(points, body), 18.0)
    buttock: list[Shape] = [Ellipsoid((70.0, -72.0, -38.0), (84.0, 62.0 + body.fat_back - 24, 78.0))]
    outline = smooth_union(outline, compute_distance(points, mirror_too(buttock), smooth_mm=10, margin_mm=25), 20.0)
    outline = smooth_intersection(outline, np.float32(_MIDDLE_Y - body.half_depth - 2) - points.y, 26.0)
    cleft = compute_distance(points, [Capsule((0.0, -146.0, 35.0), (0.0, -112.0, -85.0), 8.0, 9.0)], smooth_mm=0)
    outline = smooth_intersection(outline, -cleft, 8.0)
    genitals: list[Shape] = [
        Capsule((0.0, 78.0, -62.0), (0.0, 92.0, -95.0), 20.0, 26.0),
        Capsule((0.0, 88.0, -60.0), (8.0, 108.0, -90.0), 13.0, 13.0),
    ]
    return smooth_union(outline, compute_distance(points, genitals, smooth_mm=8, margin_mm=12), 8.0)


def _compute_trunk(points: Points, body: Body) -> Floats:
    """Distance along the ray from the middle to an outline between an ellipse and a rounded box."""
    width = np.float32(body.half_width) * (1 - ((points.z + np.float32(15)) / 330) ** 2)
    y = points.y - np.float32(_MIDDLE_Y)
    x2, y2 = (points.x / width) ** 2, (y / np.float32(body.half_depth)) ** 2
    norm = 0.55 * np.sqrt(x2 + y2) + 0.45 * np.sqrt(np.sqrt(x2 * x2 + y2 * y2)) + np.float32(1e-3)
    return np.asarray(np.hypot(points.x, y) * (1 - 1 / norm), dtype=np.float32)


def _compute_thighs(points: Points, body: Body) -> Floats:
    width, depth = body.half_width * 0.5, body.half_depth * 0.92
    x = (np.abs(points.x) - np.float32(body.half_width * 0.53)) * np.float32(1 / width)
    y = (points.y + 8) * np.float32(1 / depth)
    return np.asarray(np.maximum((np.sqrt(x * x + y * y) - 1) * np.float32(width), points.z + 30))


def _compute_fat_thickness(points: Points, body: Body) -> Floats:
    """Fat below the skin, mm: each side of the body has its own."""
    front, back = ramp(points.y, -20, 70), ramp(points.y, -10, -80)
    thickness = body.fat_side + front * (body.fat_front - body.fat_side) + back * (body.fat_back - body.fat_side)
    return np.asarray(thickness, dtype=np.float32)


# ---- muscle ----------------------------------------------------------------------------------------------------------

_MUSCLES: tuple[Capsule, ...] = (
    Capsule((60.0, -105.0, 70.0), (125.0, -62.0, -40.0), 26, 24),  # gluteus maximus
    Capsule((125.0, -5.0, 90.0), (150.0, -12.0, 10.0), 22, 12),  # gluteus medius
    Capsule((118.0, 12.0, 55.0), (138.0, 5.0, 5.0), 12, 8),  # gluteus minimus
    Capsule((58.0, 5.0, 130.0), (100.0, 32.0, -5.0), 22, 13),  # iliopsoas
    Capsule((100.0, 32.0, -5.0), (112.0, -5.0, -60.0), 13, 9),  # its tendon
    Capsule((135.0, 50.0, 20.0), (125.0, 55.0, -130.0), 12, 16),  # sartorius, rectus femoris
    Capsule((20.0, 78.0, 140.0), (14.0, 72.0, -10.0), 10, 8),  # rectus abdominis
    Capsule((150.0, 30.0, 20.0), (150.0, 15.0, -130.0), 8, 22),  # tensor, vastus
    Capsule((48.0, 35.0, -40.0), (85.0, 5.0, -140.0), 12, 26),  # adductors
    Capsule((60.0, 55.0, -35.0), (90.0, 40.0, -130.0), 8, 12),  # pectineus
    Capsule((45.0, 5.0, -20.0), (55.0, -22.0, -40.0), 12, 12),  # obturator internus
    Capsule((80.0, -50.0, -60.0), (95.0, -45.0, -140.0), 12, 20),  # hamstrings
    Capsule((25.0, -80.0, 100.0), (20.0, -70.0, 140.0), 16, 20),  # erector spinae
    Capsule((100.0, -30.0, -10.0), (120.0, -30.0, -20.0), 10, 8),  # short rotators
)


def _compute_muscle_hu(points: Points, body: Body, texture: Floats) -> Floats:
    """Muscle with planes of fat between the bellies: where two of them are equally near."""
    # The planes are wide and smooth: every second voxel in the slice is enough.
    gap = _compute_gap(points[::2, ::2])
    gap = _upsample(_upsample(gap, 0, points.x.shape[0]), 1, points.x.shape[1])
    muscle = np.float32(body.muscle_hu) + 5 * texture - 28 * np.maximum(texture - np.float32(1.2), 0)
    fatty = ramp(gap, body.fat_plane + 1.8, body.fat_plane)
    return np.asarray(muscle + fatty * (np.float32(body.fat_hu + 8) - muscle))


def _compute_gap(points: Points) -> Floats:
    """How much nearer the nearest belly is than the second nearest, mm."""
    points = Points(np.abs(points.x), points.y, points.z)
    nearest = np.full(points.x.shape, 1e3, dtype=np.float32)
    second = nearest.copy()
    for muscle in _MUSCLES:
        distance = muscle.distance(points)
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    return second - nearest


def _upsample(values: Floats, axis: int, size: int) -> Floats:
    """Back from every second voxel to every voxel, linearly."""
    values = np.moveaxis(values, axis, 0)
    result = np.empty((size, *values.shape[1:]), dtype=np.float32)
    result[::2] = values
    result[1 : 2 * len(values) - 1 : 2] = (values[:-1] + values[1:]) / 2
    if size % 2 == 0:
        result[-1] = values[-1]
    return np.moveaxis(result, 0, axis)


# ---- inside the pelvis -----------------------------------------------------------------------------------------------


def _draw_cavity(hu: Floats, points: Points, anatomy: PelvisAnatomy, texture: Floats) -> None:
    """The fat around the organs, in the groins and on both sides of the anus."""
    scale = anatomy.body.cavity_scale
    cavity: list[Shape] = [
        Ellipsoid((0.0, 2.0, 120.0), (108 * scale, 62 * scale, 90.0)),
        Ellipsoid((0.0, -4.0, 24.0), (64 * scale, 66 * scale, 56.0)),
        Ellipsoid((0.0, 6.0, -14.0), (38 * scale, 48 * scale, 42.0)),
    ]
    loose: list[Shape] = [
        Capsule((36.0, -40.0, -30.0), (30.0, -52.0, -88.0), 12.0, 17.0),
        Capsule((85.0, 66.0, 5.0), (86.0, 62.0, -110.0), 16.0, 18.0),
    ]
    midline: list[Shape] = [Capsule((0.0, -108.0, 0.0), (0.0, -88.0, -85.0), 7.0, 13.0)]
    strands = 24 * np.maximum(texture - np.float32(1.0), 0)
    fat = np.float32(anatomy.body.fat_hu + 5) + 5 * texture + strands
    blend(hu, compute_distance(points, cavity, smooth_mm=16), fat)
    blend(hu, compute_distance(points, [*mirror_too(loose), *midline], smooth_mm=4), fat)


def _draw_pelvic_floor(hu: Floats, points: Points, anatomy: PelvisAnatomy, texture: Floats) -> None:
    """The levator around prostate and rectum, the veins around the prostate, the sphincters, the bulb below."""
    organs, muscle = anatomy.organs, np.float32(anatomy.body.muscle_hu) + 5 * texture
    x, y, z = organs.prostate_center
    half_width = organs.prostate_radii[0] + 4
    box = points.find_box((-60, -70, -95), (60, 60, -5), margin_mm=0)
    if box is None:
        return
    near = points[box]
    funnel = Ellipsoid((x, y - 22.0, z + 6), (half_width, 46.0, 50.0)).distance(near)
    levator = np.maximum(np.abs(funnel) - np.float32(1.8), near.z - np.float32(z + 8))
    blend(hu[box], np.maximum(levator, near.y - np.float32(y + 6)), muscle[box])
    plexus = Ellipsoid((x, y + 1.0, z), to_vector(np.array(organs.prostate_radii) * (1.16, 1.2, 1.08)))
    blend(hu[box], plexus.distance(near), np.float32(-45) + 22 * texture[box])
    apex = z - organs.prostate_radii[2]
    sphincters: list[Shape] = [
        Capsule((x, y, apex + 2), (x, y + 4.0, apex - 10), 7.0, 7.0),
        Ellipsoid((x, y + 3.0, apex - 17), (12.0, 14.0, 11.0)),
        *build_tube(organs.rectum_nodes[:3], [radius + 3.5 for radius in organs.rectum_radii[:3]]),
    ]
    blend(hu[box], compute_distance(near, sphincters, smooth_mm=3), muscle[box])


def _draw_vessels(hu: Floats, points: Points, body: Body) -> None:
    """External iliac and femoral artery and vein."""
    artery = build_tube(
        [(28, 0, 130), (48, 2, 85), (64, 30, 45), (76, 56, 12), (84, 66, -20), (88, 58, -90), (92, 40, -140)],
        [6, 5.5, 5, 5, 4.8, 4.5, 4],
    )
    vein = build_tube(
        [(26, -10, 130), (46, -9, 85), (60, 20, 45), (66, 50, 12), (73, 60, -20), (78, 52, -90), (84, 34, -140)],
        [7.5, 7, 6.5, 6, 6, 5.5, 5],
    )
    blend(hu, compute_distance(points, mirror_too([*artery, *vein]), smooth_mm=1), body.vessel_hu)


def _draw_bowel(hu: Floats, points: Points, anatomy: PelvisAnatomy, texture: Floats) -> None:
    """Loops above the bladder, and the sigmoid colon on which the rectum ends."""
    for loop in anatomy.body.bowel:
        distance = compute_distance(points, build_tube(loop.nodes, [loop.radius] * len(loop.nodes)), smooth_mm=2)
        blend(hu, distance, 42.0)
        blend(hu, distance + np.float32(2.5), np.float32(loop.content_hu) + 12 * texture)
    organs = anatomy.organs
    distance = compute_distance(points, _build_sigmoid(organs), smooth_mm=3)
    blend(hu, distance, 42.0)
    gas = texture + 0.08 * (points.y - np.float32(organs.rectum_nodes[-1][1] + 30)) > 0.6
    content = np.where(gas, np.float32(GAS_HU), np.float32(organs.stool_hu))
    blend(hu, distance + np.float32(organs.rectum_wall), content)


def _build_sigmoid(organs: Organs) -> list[Shape]:
    x, y, z = organs.rectum_nodes[-1]
    radius = organs.rectum_radii[-1]
    nodes = [(0, 0, 0), (-8, 8, 16), (-25, 35, 22), (-60, 40, 40), (-85, 45, 80)]
    return build_tube([(x + a, y + b, z + c) for a, b, c in nodes], [radius, 0.95 * radius, radius, 15, 15])
