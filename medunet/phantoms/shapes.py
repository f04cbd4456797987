"""Signed distances of simple shapes, in mm: negative inside, zero at the surface.

The formulas follow Inigo Quilez (https://iquilezles.org/articles/distfunctions/); that of the ellipsoid is approximate
away from the surface, which `compute_occupancy` makes good by dividing by the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medunet.phantoms.grid import Floats, Points, Vector

FAR_MM = np.float32(60.0)
"""The distance that stands for "nowhere near" outside the box in which a shape was evaluated."""

EDGE_MM = 0.6
"""Half the width over which unlabelled tissues blend into one another."""


class Shape(Protocol):
    """Anything with a surface."""

    def bounds(self) -> tuple[Vector, Vector]:
        """Lower and upper corner, mm."""

    def distance(self, points: Points) -> Floats:
        """Signed distance to the surface, mm, ``(I, J, K)``."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid along the axes; `radii` in mm."""

    center: Vector
    radii: Vector

    def bounds(self) -> tuple[Vector, Vector]:
        """Lower and upper corner, mm."""
        center, radii = np.array(self.center), np.array(self.radii)
        return to_vector(center - radii), to_vector(center + radii)

    def distance(self, points: Points) -> Floats:
        """Signed distance to the surface, mm."""
        squares: Floats = np.zeros(points.x.shape, dtype=np.float32)
        scaled = squares
        for values, middle, radius in zip((points.x, points.y, points.z), self.center, self.radii, strict=True):
            unit = (values - np.float32(middle)) * np.float32(1 / radius)
            unit *= unit
            squares = squares + unit
            scaled = scaled + unit * np.float32(1 / radius**2)
        norm = np.sqrt(squares)
        return np.asarray(norm * (norm - 1) / np.sqrt(scaled + np.float32(1e-9)) - np.float32(1e-9))


@dataclass(frozen=True)
class Capsule:
    """A rod with round ends whose radius changes evenly from start to end; all in mm."""

    start: Vector
    end: Vector
    start_radius: float
    end_radius: float

    def bounds(self) -> tuple[Vector, Vector]:
        """Lower and upper corner, mm."""
        ends = np.array([self.start, self.end])
        radius = max(self.start_radius, self.end_radius)
        return to_vector(ends.min(axis=0) - radius), to_vector(ends.max(axis=0) + radius)

    def distance(self, points: Points) -> Floats:
        """Signed distance to the surface, mm (a little short where the radius changes quickly)."""
        ax, ay, az = (np.float32(value) for value in self.start)
        bx, by, bz = (np.float32(end - start) for start, end in zip(self.start, self.end, strict=True))
        px, py, pz = points.x - ax, points.y - ay, points.z - az
        along = (px * bx + py * by + pz * bz) / np.float32(max(float(bx * bx + by * by + bz * bz), 1e-6))
        np.clip(along, 0, 1, out=along)
        px -= along * bx
        py -= along * by
        pz -= along * bz
        along *= np.float32(self.end_radius - self.start_radius)
        return np.asarray(np.sqrt(px * px + py * py + pz * pz) - along - np.float32(self.start_radius))


@dataclass(frozen=True)
class Plate:
    """A bent oval plate.

    Attributes:
        center: Middle of the plate, mm.
        first: Unit vector of one half-axis.
        second: Unit vector of the other half-axis, square to the first.
        half_axes: Their lengths, mm.
        half_thickness: Half the thickness, mm.
        bend: Curvature along ``first``, 1/mm; positive bends towards first x second.
    """

    center: Vector
    first: Vector
    second: Vector
    half_axes: tuple[float, float]
    half_thickness: float
    bend: float = 0.0

    def bounds(self) -> tuple[Vector, Vector]:
        """Lower and upper corner, mm, with room for the bend."""
        first, second = np.abs(self.first) * self.half_axes[0], np.abs(self.second) * self.half_axes[1]
        half = first + second + self.half_thickness + abs(self.bend) * self.half_axes[0] ** 2
        return to_vector(np.array(self.center) - half), to_vector(np.array(self.center) + half)

    def distance(self, points: Points) -> Floats:
        """Signed distance to the surface, mm (approximate at the rim)."""
        u, v = self._project(points, self.first), self._project(points, self.second)
        normal = to_vector(np.cross(self.first, self.second))
        height = np.abs(self._project(points, normal) - np.float32(self.bend) * u * u)
        radius = np.sqrt((u / np.float32(self.half_axes[0])) ** 2 + (v / np.float32(self.half_axes[1])) ** 2)
        rim = (radius - 1) * np.float32(min(self.half_axes))
        return np.asarray(smooth_intersection(height - np.float32(self.half_thickness), rim, 4.0))

    def _project(self, points: Points, axis: Vector) -> Floats:
        x, y, z = (np.float32(value) for value in axis)
        offset = np.float32(np.dot(self.center, axis))
        return np.asarray(points.x * x + points.y * y + points.z * z - offset)


def build_tube(nodes: Sequence[Vector], radii: Sequence[float]) -> list[Shape]:
    """Capsules from node to node."""
    return [Capsule(nodes[n], nodes[n + 1], float(radii[n]), float(radii[n + 1])) for n in range(len(nodes) - 1)]


def mirror(shapes: Sequence[Shape]) -> list[Shape]:
    """The same shapes on the other side of the body."""
    return [_mirror_shape(shape) for shape in shapes]


def mirror_too(shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes on both sides of the body."""
    return [*shapes, *mirror(shapes)]


def _mirror_shape(shape: Shape) -> Shape:
    if isinstance(shape, Ellipsoid):
        return Ellipsoid(_flip(shape.center), shape.radii)
    if isinstance(shape, Capsule):
        return Capsule(_flip(shape.start), _flip(shape.end), shape.start_radius, shape.end_radius)
    assert isinstance(shape, Plate)
    # A mirror image turns first x second around, so the bend changes its sign.
    first, second = _flip(shape.first), _flip(shape.second)
    return Plate(_flip(shape.center), first, second, shape.half_axes, shape.half_thickness, -shape.bend)


def compute_distance(points: Points, shapes: Sequence[Shape], *, smooth_mm: float, margin_mm: float = 6.0) -> Floats:
    """Signed distance to the union of shapes, each evaluated only in its own box.

    Args:
        points: Where, ``(I, J, K)``.
        shapes: The parts.
        smooth_mm: Width over which two parts flow into one another.
        margin_mm: How far from a part its distance is still needed.

    Returns:
        Distances in mm, ``(I, J, K)``; `FAR_MM` away from all parts.
    """
    distance = np.full(points.x.shape, FAR_MM, dtype=np.float32)
    for shape in shapes:
        box = points.find_box(*shape.bounds(), margin_mm=margin_mm + smooth_mm)
        if box is not None:
            distance[box] = smooth_union(distance[box], shape.distance(points[box]), smooth_mm)
    return distance


def smooth_union(first: Floats, second: Floats, width_mm: float) -> Floats:
    """The union of two bodies with a fillet of the given width."""
    if width_mm <= 0:
        return np.minimum(first, second)
    fillet = np.maximum(np.float32(width_mm) - np.abs(first - second), 0)
    return np.asarray(np.minimum(first, second) - fillet * fillet * np.float32(0.25 / width_mm))


def smooth_intersection(first: Floats, second: Floats, width_mm: float) -> Floats:
    """What two bodies share, with a rounded edge."""
    return -smooth_union(-first, -second, width_mm)


def carve(body: Floats, *others: Floats) -> Floats:
    """The body without the others."""
    for other in others:
        body = np.maximum(body, -other)
    return body


def compute_occupancy(distance: Floats) -> Floats:
    """Part of each voxel that lies inside, from the distance and how much it changes across the voxel.

    A plane that cuts the voxel parallel to a face gives the exact part; the sum of the changes along the three axes is
    the distance between the nearest and the farthest corner.
    """
    change = np.full(distance.shape, 1e-6, dtype=np.float32)
    for axis in range(3):
        if distance.shape[axis] > 1:
            change += np.abs(np.gradient(distance, axis=axis))
    return np.asarray(np.clip(np.float32(0.5) - distance / change, 0, 1))


def blend(hu: Floats, distance: Floats, inside_hu: Floats | float) -> None:
    """Paint a body over what is there, in place, softly at its surface; nothing further away changes."""
    near = distance < EDGE_MM
    part = ramp(distance[near], EDGE_MM, -EDGE_MM)
    behind = hu[near]
    inside = inside_hu[near] if isinstance(inside_hu, np.ndarray) else np.float32(inside_hu)
    hu[near] = behind + part * (inside - behind)


def ramp(values: Floats, start: float, end: float) -> Floats:
    """0 before start, 1 after end, straight in between; ``end`` may be the smaller one."""
    return np.asarray(np.clip((values - np.float32(start)) * np.float32(1 / (end - start)), 0, 1))


def to_vector(values: NDArray[np.floating]) -> Vector:
    """Three plain floats."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def _flip(vector: Vector) -> Vector:
    return -vector[0], vector[1], vector[2]
