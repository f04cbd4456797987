"""Areas of the surface within a cube of voxels."""

import math

import numpy as np
import pytest

from medunet.evaluation.surface_area import compute_cube_areas, compute_square_lengths

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.2, 3.0), (3.0, 0.5, 1.0)]


def test_areas_worked_out_by_hand():
    areas = compute_cube_areas((1.0, 1.0, 1.0))
    assert areas[0] == areas[255] == 0
    assert areas[0b10000000] == pytest.approx(math.sqrt(3) / 8)  # one corner: a triangle with sides of sqrt(1/2)
    assert areas[0b11000000] == pytest.approx(math.sqrt(1 / 2))  # an edge: a rectangle
    assert areas[0b11110000] == pytest.approx(1)  # a face: a wall
    assert areas[0b10000001] == pytest.approx(2 * math.sqrt(3) / 8)  # opposite corners


@pytest.mark.parametrize("spacing", SPACINGS)
def test_walls_are_as_large_as_the_face(spacing):
    i, j, k = spacing
    areas = compute_cube_areas(spacing)
    assert areas[[0b11110000, 0b11001100, 0b10101010]] == pytest.approx([j * k, i * k, i * j])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_inside_and_outside_share_their_surface(spacing):
    areas = compute_cube_areas(spacing)
    assert areas == pytest.approx(areas[::-1])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_mirrored_cube_has_the_same_surface(spacing):
    cubes = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, 2, 2, 2)
    areas = compute_cube_areas(spacing)
    for axis in (1, 2, 3):
        mirrored = np.packbits(np.flip(cubes, axis).reshape(256, 8), axis=1)[:, 0]
        assert areas[mirrored] == pytest.approx(areas)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_tables_are_those_of_surface_distance(spacing):
    tables = pytest.importorskip("surface_distance.lookup_tables")
    peer = tables.create_table_neighbour_code_to_surface_area(np.array(spacing))
    assert compute_cube_areas(spacing) == pytest.approx(peer, abs=1e-12)
    lengths = tables.create_table_neighbour_code_to_contour_length(np.array(spacing[:2]))
    assert compute_square_lengths(spacing[:2]) == pytest.approx(lengths, abs=1e-12)


def test_a_sphere_has_nearly_its_surface():
    """Of masks without grey values marching cubes make up to 15 % too much; counting faces would make 50 %."""
    from medunet.evaluation import compute_surface_distances

    spacing = (0.8, 0.8, 1.6)
    grid = np.meshgrid(
        *[(np.arange(n) - n / 2) * mm for n, mm in zip((60, 60, 30), spacing, strict=True)], indexing="ij"
    )
    sphere = sum(axis**2 for axis in grid) <= 20**2
    distances = compute_surface_distances(sphere, sphere, spacing)
    assert distances.reference_sizes.sum() == pytest.approx(4 * math.pi * 20**2, rel=0.15)
