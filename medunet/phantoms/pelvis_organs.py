"""The labelled organs of the pelvis: exact truth and intensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.phantoms.grid import Box, Floats, Points
from medunet.phantoms.pelvis_anatomy import Organs, PelvisAnatomy
from medunet.phantoms.pelvis_background import GAS_HU
from medunet.phantoms.pelvis_bones import build_femoral_head
from medunet.phantoms.shapes import (
    Ellipsoid,
    Shape,
    build_tube,
    carve,
    compute_distance,
    compute_occupancy,
    mirror,
    ramp,
)

PELVIS_LABELS = {
    "prostate": 1,
    "bladder": 2,
    "rectum": 3,
    "seminal_vesicles": 4,
    "femoral_head_left": 5,
    "femoral_head_right": 6,
}


@dataclass(eq=False)
class Layers:
    """What has been drawn so far, all ``(I, J, K)``.

    Attributes:
        filled: Part of each voxel that the labelled organs fill.
        hu: Sum of part times HU over them.
        largest: The largest part that one of them fills.
        labels: Which one that is.
    """

    filled: Floats
    hu: Floats
    largest: Floats
    labels: NDArray[np.uint8]

    @staticmethod
    def empty(shape: tuple[int, ...]) -> Layers:
        """Nothing drawn yet."""
        filled, hu, largest = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        return Layers(filled, hu, largest, np.zeros(shape, dtype=np.uint8))

    def add(self, box: Box, occupancy: Floats, hu: Floats | float, label: int) -> None:
        """Draw one organ behind those that are there; voxels already full stay as they are."""
        part = np.minimum(occupancy, 1 - self.filled[box])
        self.filled[box] += part
        self.hu[box] += part * hu
        wins = part > self.largest[box]
        self.largest[box][wins] = part[wins]
        self.labels[box][wins] = label

    def compute_truth(self) -> NDArray[np.uint8]:
        """The organ that fills most of each voxel, 0 where the unlabelled rest fills more."""
        return np.where(self.largest > 1 - self.filled, self.labels, 0).astype(np.uint8)


def draw_organs(points: Points, anatomy: PelvisAnatomy, texture: Floats, bone_hu: Floats) -> Layers:
    """Draw everything that has a label.

    Args:
        points: Anatomical coordinates.
        anatomy: The patient.
        texture: Fine random variation of unit size, ``(I, J, K)``.
        bone_hu: HU that bone has at each voxel, for the femoral heads.
    """
    layers = Layers.empty(points.x.shape)
    _draw_soft_organs(layers, points, anatomy.organs, texture)
    for name, side in (("femoral_head_left", -1), ("femoral_head_right", 1)):
        head = build_femoral_head(anatomy.bones, side)
        box = points.find_box(*head.bounds(), margin_mm=6)
        if box is not None:
            layers.add(box, compute_occupancy(head.distance(points[box])), bone_hu[box], PELVIS_LABELS[name])
    return layers


def _draw_soft_organs(layers: Layers, points: Points, organs: Organs, texture: Floats) -> None:
    lower, upper = _find_soft_bounds(organs)
    box = points.find_box(lower, upper, margin_mm=6)
    if box is None:
        return
    points, texture = points[box], texture[box]
    prostate = _compute_prostate(points, organs)
    vesicles = carve(_compute_vesicles(points, organs), prostate)
    tube = compute_distance(points, build_tube(organs.rectum_nodes, organs.rectum_radii), smooth_mm=2, margin_mm=14)
    rectum = carve(_cut_rectum(tube, points, organs), prostate, vesicles)
    bladder = carve(_compute_bladder(points, organs), prostate, vesicles, rectum)
    draw: list[tuple[str, Floats, Floats]] = [
        ("prostate", prostate, organs.prostate_hu + 4 * texture),
        ("seminal_vesicles", vesicles, organs.vesicle_hu + 7 * texture),
        ("rectum", rectum, _compute_rectum_hu(points, organs, carve(tube, prostate, vesicles), texture)),
        ("bladder", bladder, _compute_bladder_hu(organs, bladder)),
    ]
    for name, distance, hu in draw:
        layers.add(box, compute_occupancy(distance), hu, PELVIS_LABELS[name])


def _find_soft_bounds(organs: Organs) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    shapes: list[Shape] = [
        Ellipsoid(organs.prostate_center, organs.prostate_radii),
        Ellipsoid(organs.bladder_center, organs.bladder_radii),
        *build_tube(organs.rectum_nodes, organs.rectum_radii),
        *_build_vesicles(organs),
    ]
    corners = np.array([shape.bounds() for shape in shapes])  # (shapes, 2, 3)
    lower, upper = corners[:, 0].min(axis=0).tolist(), corners[:, 1].max(axis=0).tolist()
    return (lower[0], lower[1], lower[2]), (upper[0], upper[1], upper[2])


def _compute_prostate(points: Points, organs: Organs) -> Floats:
    """A chestnut: narrower towards the apex below, hollowed a little by the rectum behind."""
    cx, cy, cz = organs.prostate_center
    rx, ry, rz = organs.prostate_radii
    up = (points.z - np.float32(cz)) / np.float32(rz)
    widen = 1 / (1 + np.float32(0.16) * np.clip(up, -1.2, 1.2))
    x = (points.x - np.float32(cx)) * widen
    hollow = np.float32(0.12 * ry) * (1 - ramp(np.abs(x), 0, rx)) * (points.y < cy)
    y = (points.y - np.float32(cy)) * widen - hollow
    return Ellipsoid((0.0, 0.0, 0.0), organs.prostate_radii).distance(Points(x, y, points.z - np.float32(cz)))


def _build_vesicles(organs: Organs) -> list[Shape]:
    radius = organs.vesicle_radius
    radii = [0.75 * radius, 1.0 * radius, 1.12 * radius, 0.85 * radius]
    middle = organs.prostate_center[0]
    right = build_tube([(x - middle, y, z) for x, y, z in organs.vesicle_nodes], radii)
    return [*right, *mirror(right)]


def _compute_vesicles(points: Points, organs: Organs) -> Floats:
    """Two lobulated tubes."""
    middle = np.float32(organs.prostate_center[0])
    shifted = Points(points.x - middle, points.y, points.z)
    distance = compute_distance(shifted, _build_vesicles(organs), smooth_mm=3, margin_mm=12)
    lobes = np.sin(shifted.x * np.float32(0.75)) * np.sin(points.z * np.float32(0.6) + points.y * np.float32(0.4))
    return np.asarray(distance + np.float32(0.9) * lobes)


def _compute_bladder(points: Points, organs: Organs) -> Floats:
    """An egg, wider behind and below when it is not full."""
    cx, cy, cz = organs.bladder_center
    _, ry, rz = organs.bladder_radii
    back = np.clip((points.y - np.float32(cy)) / np.float32(ry), -1.3, 1.3)
    up = np.clip((points.z - np.float32(cz)) / np.float32(rz), -1.3, 1.3)
    x = (points.x - np.float32(cx)) * (1 + np.float32(0.1) * back + np.float32(0.06) * up)
    z = (points.z - np.float32(cz)) * (1 + np.float32(0.1) * back)
    return Ellipsoid((0.0, 0.0, 0.0), organs.bladder_radii).distance(Points(x, points.y - np.float32(cy), z))


def _compute_bladder_hu(organs: Organs, distance: Floats) -> Floats:
    inside = ramp(distance, -organs.bladder_wall + 0.5, -organs.bladder_wall - 0.5)
    return np.asarray(np.float32(36) + inside * np.float32(organs.urine_hu - 36))


def _cut_rectum(tube: Floats, points: Points, organs: Organs) -> Floats:
    """The tube between the anus and the plane where the colon turns to the front."""
    top, bottom = organs.rectum_nodes[-1][2], organs.rectum_nodes[0][2]
    return np.asarray(np.maximum(np.maximum(tube, points.z - np.float32(top)), np.float32(bottom) - points.z))


def _compute_rectum_hu(points: Points, organs: Organs, tube: Floats, texture: Floats) -> Floats:
    """Wall, and inside it stool behind and gas in front, for the patient lies on his back."""
    heights = [node[2] for node in organs.rectum_nodes]
    middle_y = _interpolate(points.z, heights, [node[1] for node in organs.rectum_nodes])
    radius = _interpolate(points.z, heights, list(organs.rectum_radii))
    level = _interpolate(points.z, heights, list(organs.gas_level))
    front = (points.y - middle_y) / radius - level + np.float32(0.06) * texture
    gas = ramp(front * radius, -0.6, 0.6)
    stool = np.float32(organs.stool_hu) + 22 * texture
    stool = np.where(texture > 1.9, np.float32(-250), stool)  # bubbles
    content = stool + gas * (np.float32(GAS_HU) - stool)
    lumen = ramp(tube, -organs.rectum_wall + 0.5, -organs.rectum_wall - 0.5)
    lumen *= ramp(points.z, heights[0] + 16, heights[0] + 28)  # the anal canal is closed
    wall = np.float32(42)
    return np.asarray(wall + lumen * (content - wall))


def _interpolate(places: Floats, knots: list[float], values: list[float]) -> Floats:
    return np.interp(places, knots, values).astype(np.float32)
