from __future__ import annotations

import math

import numpy as np
import pytest

from medunet.phantoms.grid import Grid, Points
from medunet.phantoms.shapes import Capsule, Ellipsoid, Plate, carve, compute_distance, compute_occupancy, mirror


def make_points(
    shape: tuple[int, int, int] = (61, 59, 41), spacing: tuple[float, float, float] = (1.0, 1.0, 1.5)
) -> Points:
    x, y, z = Grid.around((0.0, 0.0, 0.0), shape=shape, spacing=spacing, orientation="RAS").axes()
    full = np.meshgrid(x, y, z, indexing="ij")
    return Points(*full)


def compute_volume_mm3(distance: np.ndarray) -> float:
    return float(compute_occupancy(distance).sum()) * 1.5


@pytest.mark.parametrize(
    ("shape", "volume_mm3"),
    [
        (Ellipsoid((1.0, -2.0, 0.5), (20.0, 12.0, 15.0)), 4 / 3 * math.pi * 20 * 12 * 15),
        (Capsule((-8.0, 0.0, -5.0), (10.0, 3.0, 6.0), 9.0, 9.0), math.pi * 81 * math.sqrt(454) + 4 / 3 * math.pi * 729),
        (Plate((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (22.0, 18.0), 4.0), math.pi * 22 * 18 * 8),
    ],
)
def test_occupancy_adds_up_to_the_volume(shape, volume_mm3):
    tolerance = 0.08 if isinstance(shape, Plate) else 0.01  # the rim of a plate is rounded
    assert compute_volume_mm3(shape.distance(make_points())) == pytest.approx(volume_mm3, rel=tolerance)


def test_occupancy_of_a_plane_is_exact():
    x = np.linspace(-5, 5, 11, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), dtype=np.float32)
    occupancy = compute_occupancy(x - np.float32(0.3))  # full up to x = 0.3
    np.testing.assert_allclose(occupancy[:, 1, 1], [1] * 5 + [0.8] + [0] * 5, atol=1e-6)


def test_mirror_is_the_same_on_the_other_side():
    points = make_points()
    flipped = Points(-points.x, points.y, points.z)
    shapes = [
        Ellipsoid((9.0, 1.0, 2.0), (5.0, 6.0, 7.0)),
        Capsule((4.0, 0.0, 0.0), (15.0, 8.0, -9.0), 3.0, 6.0),
        Plate((10.0, 0.0, 3.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0), (12.0, 9.0), 2.0, 0.01),
    ]
    for shape, mirrored in zip(shapes, mirror(shapes), strict=True):
        np.testing.assert_allclose(shape.distance(points), mirrored.distance(flipped), atol=1e-4)


def test_boxes_do_not_change_the_surface():
    points = make_points()
    shapes = [Ellipsoid((-9.0, 2.0, 1.0), (9.0, 8.0, 7.0)), Capsule((3.0, 0.0, 0.0), (18.0, 5.0, 9.0), 5.0, 4.0)]
    boxed = compute_distance(points, shapes, smooth_mm=0)
    whole = np.minimum(*(shape.distance(points) for shape in shapes))
    near = whole < 4
    np.testing.assert_allclose(boxed[near], whole[near], atol=1e-5)
    assert (boxed[~near] > 3).all()


def test_carving_leaves_no_gap_and_no_overlap():
    points = make_points()
    first = Ellipsoid((-4.0, 0.0, 0.0), (14.0, 12.0, 12.0)).distance(points)
    second = Ellipsoid((8.0, 0.0, 0.0), (13.0, 12.0, 12.0)).distance(points)
    total = compute_occupancy(first) + compute_occupancy(carve(second, first))
    deep_inside = np.minimum(first, second) < -5
    np.testing.assert_allclose(total[deep_inside], 1, atol=0.15)


def test_a_shape_out_of_view_has_no_box():
    assert make_points().find_box((500.0, 0.0, 0.0), (510.0, 5.0, 5.0), margin_mm=3) is None
