"""The skeleton of the pelvis: hip bones, sacrum, femora, and sometimes a metal hip."""

from __future__ import annotations

import numpy as np

from medunet.phantoms.grid import Floats, Points, Vector
from medunet.phantoms.pelvis_anatomy import Bones
from medunet.phantoms.shapes import (
    Capsule,
    Ellipsoid,
    Plate,
    Shape,
    blend,
    build_tube,
    carve,
    compute_distance,
    mirror_too,
    ramp,
)

METAL_HU = 3000.0
_MARROW_HU = -40.0
_HIP_GAP_MM = 3.2
_SACROILIAC_GAP_MM = 2.5


def draw_bones(hu: Floats, points: Points, bones: Bones, texture: Floats) -> Floats:
    """Draw the skeleton over the soft tissue.

    Args:
        hu: The image so far, ``(I, J, K)``; changed in place.
        points: Anatomical coordinates.
        bones: Their sizes and densities.
        texture: Fine random variation of unit size.

    Returns:
        The HU that a femur has or would have at each voxel, for the labelled heads.
    """
    hip = _compute_hip(points, bones)
    blend(hu, hip, _compute_bone_hu(hip, bones, texture))
    sacrum = _compute_sacrum(points, hip)
    blend(hu, sacrum, _compute_bone_hu(sacrum, bones, texture))
    femur = compute_distance(points, mirror_too(_build_femur(bones)), smooth_mm=8)
    femur_hu = _compute_femur_hu(femur, points, bones, texture)
    blend(hu, femur, femur_hu)
    if bones.prosthesis_side:
        metal = compute_distance(points, _build_prosthesis(bones), smooth_mm=2)
        blend(hu, metal, METAL_HU)
        blend(femur_hu, metal, METAL_HU)
    return femur_hu


def build_femoral_head(bones: Bones, side: int) -> Ellipsoid:
    """The ball of a hip joint; side is -1 for the left, 1 for the right."""
    return Ellipsoid((side * bones.head_x, 0.0, 0.0), (bones.head_radius,) * 3)


def _compute_bone_hu(distance: Floats, bones: Bones, texture: Floats) -> Floats:
    """A dense shell around spongy bone."""
    inner = ramp(distance, -bones.cortex + 0.7, -bones.cortex - 0.7)
    spongy = np.float32(bones.trabecular_hu) + 45 * texture
    return np.asarray(np.float32(bones.cortical_hu) + inner * (spongy - np.float32(bones.cortical_hu)))


def _compute_femur_hu(distance: Floats, points: Points, bones: Bones, texture: Floats) -> Floats:
    """Spongy at the hip; below, a thick shell around fatty marrow."""
    hu = _compute_bone_hu(distance, bones, texture)
    shaft = np.where(distance > -6, np.float32(bones.cortical_hu * 1.1), np.float32(_MARROW_HU))
    return np.asarray(hu + ramp(points.z, -40, -70) * (shaft - hu))


def _compute_hip(points: Points, bones: Bones) -> Floats:
    hip = compute_distance(points, mirror_too(_build_hip(bones)), smooth_mm=7)
    head = compute_distance(points, mirror_too([build_femoral_head(bones, 1)]), smooth_mm=0, margin_mm=20)
    # The mouth of the socket, through which the neck leaves.
    radius = bones.head_radius + 4
    mouth = Capsule((bones.head_x + 12, -2.0, -10.0), (bones.head_x + 45, -10.0, -30.0), radius, radius + 6)
    return carve(hip, head - np.float32(_HIP_GAP_MM), compute_distance(points, mirror_too([mouth]), smooth_mm=0))


def _build_hip(bones: Bones) -> list[Shape]:
    """Right hip bone: socket, ilium, ischium, pubis."""
    x = bones.head_x
    # The wing runs from the sacroiliac joint behind to the spine in front, and leans outwards.
    first, second = _unit((0.53, 0.84, 0.0)), _unit((0.36, -0.23, 0.90))
    return [
        Ellipsoid((x - 1, -2.0, 4.0), (34.0, 33.0, 34.0)),
        Capsule((x + 2, 2.0, 26.0), (x + 8, 0.0, 52.0), 17.0, 9.0),
        Plate((x + 10, -8.0, 88.0), first, second, (72.0, 62.0), 5.0, 0.0022),
        Capsule((58.0, -72.0, 72.0), (62.0, -66.0, 105.0), 9.0, 9.0),
        Capsule((x, -14.0, 30.0), (66.0, -62.0, 58.0), 12.0, 9.0),
        Capsule((x + 4, 26.0, 30.0), (x + 20, 42.0, 62.0), 9.0, 7.0),
        *build_tube([(x - 2, -32, 0), (78, -44, -38), (60, -38, -72)], [15, 14, 16]),
        *build_tube([(x - 12, 26, 4), (52, 50, -10), (11, 58, -24)], [12, 8, 9]),
        Ellipsoid((12.0, 52.0, -36.0), (9.0, 11.0, 20.0)),
        Capsule((12.0, 45.0, -48.0), (50.0, -18.0, -78.0), 6.5, 8.0),
    ]


def _compute_sacrum(points: Points, hip: Floats) -> Floats:
    """Sacrum and coccyx with the spinal canal, kept off the hip bones."""
    wing: list[Shape] = [
        Ellipsoid((30.0, -60.0, 88.0), (24.0, 18.0, 32.0)),
        Ellipsoid((20.0, -78.0, 52.0), (17.0, 11.0, 26.0)),
    ]
    spine = build_tube(
        [(0, -38, 140), (0, -46, 108), (0, -66, 80), (0, -82, 50), (0, -90, 22), (0, -84, 2), (0, -72, -10)],
        [25, 23, 18, 13, 9, 6, 4],
    )
    crest = Capsule((0.0, -82.0, 120.0), (0.0, -100.0, 70.0), 6, 5)
    sacrum = compute_distance(points, [*spine, *mirror_too(wing), crest], smooth_mm=8)
    canal = compute_distance(points, [Capsule((0.0, -66.0, 140.0), (0.0, -92.0, 45.0), 8, 4)], smooth_mm=0)
    foramina = mirror_too([Capsule((16.0, -60.0, z), (17.0, -100.0, z), 4.0, 4.0) for z in (38.0, 58.0, 80.0)])
    return carve(sacrum, hip - np.float32(_SACROILIAC_GAP_MM), canal, compute_distance(points, foramina, smooth_mm=0))


def _build_femur(bones: Bones) -> list[Shape]:
    """Right femur: head, neck, the two trochanters, shaft."""
    x = bones.head_x
    return [
        build_femoral_head(bones, 1),
        Capsule((x, 0.0, 0.0), (x + 42, -12.0, -24.0), 16.0, 17.0),
        Capsule((x + 54, -22.0, -4.0), (x + 50, -18.0, -25.0), 13.0, 16.0),
        Capsule((x + 44, -14.0, -35.0), (x + 34, -4.0, -150.0), 18.0, 14.0),
        Ellipsoid((x + 26, -25.0, -58.0), (9.0, 9.0, 12.0)),
    ]


def _build_prosthesis(bones: Bones) -> list[Shape]:
    """Head and cup in one ball, neck, stem."""
    x, side = bones.head_x, bones.prosthesis_side
    return [
        build_femoral_head(bones, side),
        Capsule((side * x, 0.0, 0.0), (side * (x + 36), -10.0, -18.0), 9.0, 9.0),
        Capsule((side * (x + 36), -10.0, -18.0), (side * (x + 38), -6.0, -120.0), 9.0, 6.0),
    ]


def _unit(vector: Vector) -> Vector:
    x, y, z = (np.array(vector) / np.linalg.norm(vector)).tolist()
    return x, y, z
