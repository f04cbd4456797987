"""Surfaces are closed, face outwards, and have the volume, area and place of what they enclose."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medunet.io.surface import Surface, build_surface, compute_surface_area_mm2, compute_surface_volume_mm3

RADIUS_MM = 14.0
CENTRE_VOXEL = np.array([24, 14, 12])
ROTATION = nib.eulerangles.euler2mat(0.3, -0.2, 0.1)
AFFINES = {
    "straight": np.diag([0.7, 1.2, 1.5, 1]),
    "flipped": np.diag([-0.7, -1.2, 1.5, 1]),
    "mirrored": np.diag([-0.7, 1.2, 1.5, 1]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([0.7, 1.2, 1.5]), [-31, 12.5, 40.25]),
    "oblique mirrored": nib.affines.from_matvec(ROTATION @ np.diag([0.7, -1.2, 1.5]), [-31, 12.5, 40.25]),
    "permuted": nib.affines.from_matvec(np.diag([0.7, 1.2, 1.5])[[2, 0, 1]], [5, -600, 700]),
}


def make_ball(affine: Any, shape: tuple[int, int, int] = (50, 30, 26)) -> tuple[Any, Any]:
    """A mask, and its centre in the world."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    offsets = (voxels - CENTRE_VOXEL) @ affine[:3, :3].T
    return np.linalg.norm(offsets, axis=-1) <= RADIUS_MM, affine[:3, :3] @ CENTRE_VOXEL + affine[:3, 3]


def count_edges(surface: Surface) -> Any:
    """How many triangles share each edge."""
    triangles = surface.triangles
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)[1]


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(("num_smoothings", "area_tolerance"), [(0, 0.13), (10, 0.03)])
def test_a_ball(name: str, num_smoothings: int, area_tolerance: float) -> None:
    affine = AFFINES[name]
    mask, centre = make_ball(affine)
    surface = build_surface(mask, affine, num_smoothings=num_smoothings)
    # Positive: the triangles face outwards.
    assert compute_surface_volume_mm3(surface) == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.01)
    # Steps of voxels make the surface of a ball about an eighth too large.
    assert compute_surface_area_mm2(surface) == pytest.approx(4 * np.pi * RADIUS_MM**2, rel=area_tolerance)
    assert (count_edges(surface) == 2).all()
    np.testing.assert_allclose(np.linalg.norm(surface.points - centre, axis=1), RADIUS_MM, atol=0.8)  # half a voxel
    corners = surface.points[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", normals, corners.mean(axis=1) - centre) > 0).all()


def test_one_voxel_is_an_octahedron_around_its_centre() -> None:
    affine = AFFINES["oblique"]
    mask = np.zeros((3, 4, 5), np.bool_)
    mask[1, 2, 4] = True
    surface = build_surface(mask, affine)
    tips = np.concatenate([np.eye(3), -np.eye(3)]) * 0.5 + [1, 2, 4]
    expected = tips @ affine[:3, :3].T + affine[:3, 3]
    assert len(surface.points) == 6
    assert len(surface.triangles) == 8
    for tip in expected:
        assert np.linalg.norm(surface.points - tip, axis=1).min() < 1e-6
    assert compute_surface_volume_mm3(surface) == pytest.approx(0.7 * 1.2 * 1.5 / 6, rel=1e-6)


def test_what_touches_the_border_is_closed_there() -> None:
    surface = build_surface(np.ones((4, 5, 6), np.bool_), np.diag([2.0, 1, 1, 1]))
    assert (count_edges(surface) == 2).all()
    assert compute_surface_volume_mm3(surface) == pytest.approx(2 * 4 * 5 * 6, rel=0.15)  # edges are cut


def test_noise_has_no_open_edge() -> None:
    mask = np.random.default_rng(0).random((9, 10, 11)) < 0.4
    assert (count_edges(build_surface(mask, np.eye(4))) % 2 == 0).all()


def test_a_shell_encloses_what_it_is_made_of() -> None:
    affine = np.diag([0.7, 1.2, 1.5, 1])
    mask, _ = make_ball(affine)
    whole = compute_surface_volume_mm3(build_surface(mask, affine))
    hole = np.zeros_like(mask)
    hole[20:29, 11:18, 9:16] = True
    inner = compute_surface_volume_mm3(build_surface(hole, affine))
    assert compute_surface_volume_mm3(build_surface(mask & ~hole, affine)) == pytest.approx(whole - inner, rel=1e-3)


def test_smoothing_keeps_the_volume() -> None:
    mask, _ = make_ball(np.eye(4), shape=(45, 30, 28))
    before = compute_surface_volume_mm3(build_surface(mask, np.eye(4)))
    after = compute_surface_volume_mm3(build_surface(mask, np.eye(4), num_smoothings=20))
    assert after == pytest.approx(before, rel=0.01)


def test_an_empty_mask_has_no_surface() -> None:
    surface = build_surface(np.zeros((3, 4, 5), np.bool_), np.eye(4))
    assert surface.points.shape == surface.triangles.shape == (0, 3)
    assert compute_surface_volume_mm3(surface) == compute_surface_area_mm2(surface) == 0
