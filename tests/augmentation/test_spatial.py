"""Rotation, zoom and elastic deformation do what they say, and the deformation is TorchIO's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  SimpleITK's own habit
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchio.data.io import nib_to_sitk

from medunet.augmentation import (
    AugmentationPolicy,
    SpatialChange,
    apply_spatial,
    build_nnunet_policy,
    compute_bspline_field,
    compute_source_offsets,
    sample_spatial,
)
from medunet.augmentation.spatial import _compute_bspline_basis, _compute_rotation, list_rotation_axes
from medunet.volume import Array

ONE_MM = (1.0, 1.0, 1.0)


def never(**changes: Any) -> AugmentationPolicy:
    """A policy of which nothing but the given happens."""
    none = {"rotation_probability": 0, "scaling_probability": 0, "elastic_probability": 0, "mirror_probability": 0}
    return AugmentationPolicy(**(none | changes))


def apply(patch: Tensor, change: SpatialChange, spacing: Any = ONE_MM, mode: str = "bilinear") -> Tensor:
    """Change a whole patch ``(C, I, J, K)``."""
    i, j, k = patch.shape[1:]
    offsets = compute_source_offsets(change, (i, j, k), spacing)
    if offsets is None:
        return patch
    centre = (torch.tensor([i, j, k]) - 1) / 2
    return apply_spatial(patch, offsets + centre, mode)


def make_noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# ---- affine ------------------------------------------------------------------------------------------------------------


def test_no_change_needs_no_interpolation() -> None:
    assert compute_source_offsets(SpatialChange(), (4, 5, 6), ONE_MM) is None
    assert compute_source_offsets(SpatialChange(mirrored_axes=(0, 2)), (4, 5, 6), ONE_MM) is None


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 6, 7), (4, 4, 4)])
@pytest.mark.parametrize("change", [{"matrix": np.eye(3)}, {"control_mm": np.zeros((5, 5, 5, 3))}])
def test_the_identity_gives_the_patch_back(shape: Any, change: Any) -> None:
    patch = make_noise(2, *shape)
    assert torch.allclose(apply(patch, SpatialChange(**change), (0.7, 1.2, 3.0)), patch, atol=1e-5)
    codes = torch.randint(0, 5, (1, *shape), generator=torch.Generator().manual_seed(1))
    assert torch.equal(apply(codes, SpatialChange(**change), mode="nearest"), codes.float())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_that_of_numpy(axis: int, turns: int) -> None:
    patch = make_noise(2, 6, 6, 6)
    angles = np.where(np.arange(3) == axis, 90.0 * turns, 0.0)
    change = SpatialChange(matrix=_compute_rotation(angles))
    a, b = [1 + other for other in range(3) if other != axis]
    expected = np.rot90(patch.numpy(), turns, (b, a))
    assert np.allclose(apply(patch, change).numpy(), expected, atol=1e-5)


def test_rotations_act_in_mm() -> None:
    """On voxels of 1 x 2 x 2 mm a quarter turn about axis 2 makes 4 voxels along axis 0 of 2 along axis 1."""
    policy = never(rotation_probability=1, rotation_degrees=180.0)
    spacing = (1.0, 2.0, 2.0)
    for seed in range(20):
        matrix = sample_spatial(policy, np.random.default_rng(seed), (8, 8, 8), spacing).matrix
        assert matrix is not None
        in_mm = np.diag(spacing) @ matrix @ np.diag(1 / np.array(spacing))
        assert np.allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) == pytest.approx(1)


@pytest.mark.parametrize("scaling", [(0.5, 1.0), (1.0, 2.0)])
def test_zoom_direction(scaling: tuple[float, float]) -> None:
    """A factor of 2 makes a blob twice as wide; below 1 more of the patient is seen."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(33.0) - 16] * 3, indexing="ij"), -1)
    blob = torch.exp(-0.5 * (grid.norm(dim=-1) / 3) ** 2)[None]
    ratios = []
    for seed in range(6):
        change = sample_spatial(
            never(scaling_probability=1, scaling=scaling), np.random.default_rng(seed), (33,) * 3, ONE_MM
        )
        widths = [float((b * grid[..., 0] ** 2).sum() / b.sum()) ** 0.5 for b in (blob, apply(blob, change))]
        ratios.append(widths[1] / widths[0])
        assert change.matrix is not None
        assert ratios[-1] == pytest.approx(1 / change.matrix[0, 0], rel=0.05)
    assert scaling[0] * 0.98 < min(ratios) <= max(ratios) < scaling[1] * 1.02
    assert max(abs(ratio - 1) for ratio in ratios) > 0.2


def test_zooms_and_angles_keep_their_range() -> None:
    policy = never(rotation_probability=0.5, scaling_probability=0.5)
    rng = np.random.default_rng(0)
    factors = []
    for _ in range(200):
        matrix = sample_spatial(policy, rng, (16, 16, 16), ONE_MM).matrix
        if matrix is not None:
            factors.append(1 / np.cbrt(np.linalg.det(matrix)))
            angle = np.degrees(np.arccos(np.clip((np.trace(matrix * factors[-1]) - 1) / 2, -1, 1)))
            assert angle < 60  # three turns of up to 30 degrees
    assert 0.7 <= min(factors) < 0.8
    assert 1.3 < max(factors) <= 1.4
    assert 0.35 < np.mean(np.array(factors) > 1.0001) / np.mean(np.abs(np.array(factors) - 1) > 1e-4) < 0.65


@pytest.mark.parametrize(
    ("patch_size", "spacing", "axes"),
    [
        ((8, 8, 8), ONE_MM, [0, 1, 2]),
        ((8, 8, 8), (1.0, 1.0, 3.0), [0, 1, 2]),
        ((8, 8, 8), (1.0, 1.0, 3.0000004), [0, 1, 2]),
        ((8, 8, 8), (1.0, 1.0, 3.1), [2]),
        ((8, 8, 8), (5.0, 0.8, 0.8), [0]),
        ((8, 1, 8), ONE_MM, [1]),
        ((8, 1, 8), (1.0, 1.0, 5.0), [1]),
    ],
)
def test_turns_stay_in_the_fine_plane(patch_size: Any, spacing: Any, axes: list[int]) -> None:
    assert list_rotation_axes(patch_size, spacing) == axes
    matrix = sample_spatial(never(rotation_probability=1), np.random.default_rng(1), patch_size, spacing).matrix
    assert matrix is not None
    assert not np.allclose(matrix, np.eye(3))
    if len(axes) == 1:
        assert np.allclose(matrix[axes[0]], np.eye(3)[axes[0]])


@pytest.mark.parametrize(
    ("patch_size", "spacing", "degrees", "axes"),
    [
        ((320, 256, 20), (0.6, 0.6, 3.6), 180.0, (2,)),  # Prostate MR
        ((20, 320, 256), (3.6, 0.6, 0.6), 180.0, (0,)),
        ((40, 56, 40), ONE_MM, 30.0, (0, 1, 2)),  # Hippocampus
        ((160, 160, 48), ONE_MM, 180.0, (2,)),  # among equals, S counts as the coarsest
        ((48, 160, 160), ONE_MM, 30.0, (0, 1, 2)),
        ((96, 96, 32), (1.0, 1.0, 5.0), 30.0, (0, 1, 2)),  # exactly three times is not flat, whatever the spacing
        ((512, 512, 1), (1.0, 1.0, 5.0), 180.0, (2,)),
        ((512, 320, 1), (1.0, 1.0, 5.0), 15.0, (2,)),
    ],
)
def test_nnunet_turns_and_zooms_flat_patches_within_their_slices(
    patch_size: Any, spacing: Any, degrees: float, axes: tuple[int, ...]
) -> None:
    policy = dataclasses.replace(
        build_nnunet_policy(patch_size, spacing), rotation_probability=1, scaling_probability=1
    )
    assert (policy.rotation_degrees, policy.rotation_axes) == (degrees, axes)
    assert (policy.elastic_probability, policy.mirror_axes) == (0, (0, 1, 2))
    for seed in range(5):
        matrix = sample_spatial(policy, np.random.default_rng(seed), patch_size, spacing).matrix
        assert matrix is not None
        untouched = [axis for axis in range(3) if np.allclose(matrix[axis], np.eye(3)[axis])]
        assert untouched == (list(axes) if len(axes) == 1 else [])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_stays_a_slice(axis: int) -> None:
    policy = AugmentationPolicy(rotation_probability=1, scaling_probability=1, elastic_probability=1)
    size = [16, 16, 16]
    size[axis] = 1
    for seed in range(5):
        change = sample_spatial(policy, np.random.default_rng(seed), tuple(size), (1.0, 1.5, 2.0))  # type: ignore[arg-type]
        offsets = compute_source_offsets(change, tuple(size), (1.0, 1.5, 2.0))  # type: ignore[arg-type]
        assert offsets is not None
        assert offsets[..., axis].abs().max() < 1e-5


def test_outside_takes_the_border() -> None:
    patch = torch.arange(4.0).reshape(1, 4, 1, 1)
    positions = torch.zeros(3, 1, 1, 3)
    positions[:, 0, 0, 0] = torch.tensor([-9.0, 1.25, 9.0])
    assert apply_spatial(patch, positions, "bilinear").flatten().tolist() == pytest.approx([0, 1.25, 3])


# ---- elastic -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(4, 12))
def test_basis_rows_sum_to_one(num_voxels: int, num_control: int) -> None:
    basis = _compute_bspline_basis(num_voxels, num_control)
    assert basis.shape == (num_voxels, num_control)
    assert torch.allclose(basis.sum(1), torch.ones(num_voxels), atol=1e-6)
    assert (basis >= 0).all()
    assert ((basis > 0).sum(1) <= 4).all()
    assert torch.allclose(basis, basis.flip(0, 1), atol=1e-5)  # neither end is special


def test_equal_control_points_shift() -> None:
    control = torch.tensor([1.0, -2.0, 3.0]).expand(7, 7, 7, 3)
    field = compute_bspline_field(control, (5, 6, 7))
    assert torch.allclose(field, control[0, 0, 0].expand(5, 6, 7, 3), atol=1e-5)
    patch = make_noise(1, 8, 9, 10)
    moved = apply(patch, SpatialChange(control_mm=control.numpy()), (1.0, 2.0, 3.0))  # by 1, -1 and 1 voxels
    assert torch.allclose(moved[:, :-1, 1:, :-1], patch[:, 1:, :-1, 1:], atol=1e-4)


def test_a_spline_keeps_straight_lines() -> None:
    """Control points on a ramp give a ramp, as cubic B-splines reproduce linear functions."""
    control = torch.zeros(7, 7, 7, 3)
    control[..., 0] = torch.arange(7.0).reshape(7, 1, 1)
    field = compute_bspline_field(control, (20, 3, 3))
    steps = field[1:, 0, 0, 0] - field[:-1, 0, 0, 0]
    assert torch.allclose(steps, torch.full_like(steps, 4 / 20.25), atol=1e-5)


def compute_torchio_field(control_mm: Array, shape: Any, affine: Array) -> Array:
    """TorchIO's displacement in RAS mm for the same control points, ``(I, J, K, 3)``, by SimpleITK.

    ITK's control grid runs along the image's axes in LPS, and its displacements are LPS mm: for an RAS grid both the
    order of the points and the sign of the vectors change in x and y.
    """
    lps = control_mm[::-1, ::-1] * np.array([-1, -1, 1])
    transform = tio.ElasticDeformation(np.ascontiguousarray(lps), max_displacement=(1.0, 1.0, 1.0))
    image = nib_to_sitk(np.zeros((1, *shape), np.float32), affine, force_3d=True)
    field = sitk.TransformToDisplacementField(
        transform.get_bspline_transform(image),
        sitk.sitkVectorFloat64,
        image.GetSize(),
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    found: Array = sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3) * np.array([-1, -1, 1])
    return found


@pytest.mark.parametrize("num_control", [4, 5, 7, 9])
@pytest.mark.parametrize(
    ("shape", "spacing"), [((17, 22, 31), (0.7, 1.2, 3.0)), ((33, 24, 16), ONE_MM), ((8, 9, 10), (2.0, 1.0, 1.0))]
)
def test_the_field_is_torchios(shape: Any, spacing: Any, num_control: int) -> None:
    """To a thousandth of a voxel: both divide the patch in the same way."""
    extent_mm = np.array(shape) * np.array(spacing)
    control_mm = np.random.default_rng(num_control).uniform(-0.06, 0.06, (num_control,) * 3 + (3,)) * extent_mm
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-31.0, 12.5, 40.25)
    expected = compute_torchio_field(control_mm, shape, affine)
    field = compute_bspline_field(torch.from_numpy(control_mm).float(), shape).numpy()
    assert np.abs(expected / spacing).max() > 0.2  # it deforms
    assert np.abs((field - expected) / spacing).max() < 1e-3


def test_the_deformed_image_is_torchios() -> None:
    """The same image through TorchIO and through the fast path, away from the borders, where both see voxels."""
    shape, spacing = (24, 20, 28), (1.0, 1.5, 0.8)
    control_mm = np.random.default_rng(3).uniform(-1.5, 1.5, (6, 6, 6, 3))
    grid = np.indices(shape)
    image = (np.sin(grid[0] / 3) + np.cos(grid[1] / 4) + np.sin(grid[2] / 5))[None].astype(np.float32)
    lps = np.ascontiguousarray(control_mm[::-1, ::-1] * np.array([-1, -1, 1]))
    transform = tio.ElasticDeformation(lps, max_displacement=(1.0, 1.0, 1.0))
    scan = tio.ScalarImage(tensor=torch.from_numpy(image), affine=np.diag([*spacing, 1.0]))
    expected = transform(scan).data
    found = apply(torch.from_numpy(image), SpatialChange(control_mm=control_mm), spacing)
    inner = (slice(None), *[slice(4, -4)] * 3)
    assert (expected - torch.from_numpy(image))[inner].abs().max() > 0.1
    assert (found - expected)[inner].abs().max() < 1e-3


@pytest.mark.parametrize("spacing", [ONE_MM, (0.7, 1.2, 3.0)])
def test_a_deformation_does_not_fold(spacing: Any) -> None:
    policy = never(elastic_probability=1, elastic_displacement=10.0)  # the bound against folding is what limits it
    size = (20, 24, 16)
    for seed in range(3):
        offsets = compute_source_offsets(
            sample_spatial(policy, np.random.default_rng(seed), size, spacing), size, spacing
        )
        assert offsets is not None
        gradients = torch.stack(list(torch.gradient(offsets, dim=(0, 1, 2))), -1)
        assert (torch.linalg.det(gradients) > 0).all()


def test_the_displacement_is_a_share_of_the_patch() -> None:
    policy = never(elastic_probability=1, elastic_displacement=0.06)
    change = sample_spatial(policy, np.random.default_rng(0), (50, 100, 20), (1.0, 1.0, 2.0))
    assert change.control_mm is not None
    largest = np.abs(change.control_mm).max((0, 1, 2))
    assert (largest <= (3.0, 6.0, 2.4)).all()
    assert (largest > 0.95 * np.array((3.0, 6.0, 2.4))).all()


# ---- drawing -----------------------------------------------------------------------------------------------------------


def test_the_same_generator_draws_the_same_change() -> None:
    policy = AugmentationPolicy(rotation_probability=1, elastic_probability=1)
    first, second = (sample_spatial(policy, np.random.default_rng(5), (8, 8, 8), ONE_MM) for _ in range(2))
    assert first.matrix is not None
    assert first.control_mm is not None
    assert np.array_equal(first.matrix, second.matrix)  # type: ignore[arg-type]
    assert np.array_equal(first.control_mm, second.control_mm)  # type: ignore[arg-type]
    assert first.mirrored_axes == second.mirrored_axes


def test_one_probability_does_not_move_the_others() -> None:
    """Everything is drawn whether it is used or not, so that two policies can be compared patch by patch."""
    always = AugmentationPolicy(rotation_probability=1, elastic_probability=1, scaling_probability=0)
    without = AugmentationPolicy(rotation_probability=0, elastic_probability=1, scaling_probability=0)
    one, other = (sample_spatial(policy, np.random.default_rng(5), (8, 8, 8), ONE_MM) for policy in (always, without))
    assert other.matrix is None
    assert np.array_equal(one.control_mm, other.control_mm)  # type: ignore[arg-type]
    assert one.mirrored_axes == other.mirrored_axes


def test_probabilities_are_kept() -> None:
    rng, policy = np.random.default_rng(0), AugmentationPolicy()
    changes = [sample_spatial(policy, rng, (4, 4, 4), ONE_MM) for _ in range(2000)]
    for share, probability in (
        (np.mean([change.matrix is not None for change in changes]), 1 - 0.8 * 0.8),
        (np.mean([change.control_mm is not None for change in changes]), 0.2),
        (np.mean([change.is_mirrored for change in changes]), 0.5),
    ):
        assert share == pytest.approx(probability, abs=4 * math.sqrt(0.25 / 2000))
