"""The deformation of the U-Net's paper: displacements of 3 x 3 nodes, 10 pixels of deviation, bicubic in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medunet.augmentation import (
    AugmentationPolicy,
    SpatialChange,
    build_unet2015_policy,
    compute_grid_field,
    compute_source_offsets,
    sample_change,
    sample_spatial,
)
from medunet.training.patches import compute_source_box

ONE_MM = (1.0, 1.0, 1.0)
ONLY_ELASTIC = AugmentationPolicy(
    rotation_probability=0, scaling_probability=0, mirror_probability=0, elastic_probability=1, elastic_kind="grid"
)


def draw(seed: int, patch_size: Any = (129, 101, 1), policy: AugmentationPolicy = ONLY_ELASTIC) -> SpatialChange:
    return sample_spatial(policy, np.random.default_rng(seed), patch_size, ONE_MM)


def test_the_field_passes_through_the_displacements_of_the_nodes() -> None:
    change = draw(0)
    assert change.node_voxels is not None
    assert change.node_voxels.shape == (3, 3, 1, 3)
    field = compute_grid_field(torch.from_numpy(change.node_voxels).float(), (129, 101, 1)).numpy()
    np.testing.assert_allclose(field[::64, ::50], change.node_voxels, atol=1e-4)
    assert np.abs(field[..., 2]).max() == 0  # nothing leaves the slice


def test_between_the_nodes_it_is_a_cubic_in_each_direction() -> None:
    nodes = np.zeros((3, 3, 1, 3))
    nodes[1, 1, 0] = (1.0, 2.0, 0.0)
    field = compute_grid_field(torch.from_numpy(nodes).float(), (33, 17, 1)).numpy()[:, :, 0]
    np.testing.assert_allclose(field[..., 1], 2 * field[..., 0], atol=1e-6)
    line = field[:, 8, 0]
    np.testing.assert_allclose(field[..., 0], np.outer(line, field[16, :, 0]), atol=1e-6)  # a product of two lines
    np.testing.assert_allclose(line, line[::-1], atol=1e-6)
    assert line.argmax() == 16
    assert np.abs(np.diff(line, 4))[5:10].max() < 1e-5  # third differences are constant within a cell
    assert (np.diff(line[:17]) > -0.02).all()


def test_displacements_have_a_deviation_of_ten_pixels() -> None:
    drawn = np.concatenate([draw(seed).node_voxels.reshape(-1, 3)[:, :2] for seed in range(400)])  # type: ignore[union-attr]
    assert drawn.std() == pytest.approx(10.0, rel=0.03)
    assert abs(drawn.mean()) < 0.5
    values = np.sort(np.abs(drawn.reshape(-1)))
    assert np.interp(10, values, np.linspace(0, 1, values.size)) == pytest.approx(0.683, abs=0.02)  # normal


def test_small_patches_are_bent_less() -> None:
    drawn = np.stack([draw(seed, (21, 129, 1)).node_voxels for seed in range(300)])  # type: ignore[misc]
    assert drawn[..., 0].std() == pytest.approx(0.15 * 20, rel=0.05)
    assert drawn[..., 1].std() == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize("patch_size", [(40, 33, 1), (24, 31, 17)])
def test_the_box_that_is_read_holds_every_coordinate(patch_size: Any) -> None:
    for seed in range(30):
        change = draw(seed, patch_size, build_unet2015_policy())
        centre = [100.0, 101.0, 102.0]
        box = compute_source_box(change, centre, patch_size, ONE_MM, (200, 200, 200))
        offsets = compute_source_offsets(change, patch_size, ONE_MM)
        assert offsets is not None
        flat = offsets.reshape(-1, 3).numpy() + np.array(centre)
        for axis, edge in enumerate(box):
            assert edge.start <= flat[:, axis].min() + 1e-3
            assert edge.stop - 1 >= flat[:, axis].max() - 1e-3


def test_every_patch_is_bent_and_turned_within_its_slice() -> None:
    for seed in range(20):
        change = sample_change(build_unet2015_policy(), np.random.default_rng(seed), (80, 80, 1), ONE_MM)
        assert change.spatial.node_voxels is not None
        assert change.spatial.matrix is not None
        np.testing.assert_allclose(change.spatial.matrix[2], (0, 0, 1), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(change.spatial.matrix), 1)  # no zoom
        assert change.intensity.noise is change.intensity.blur_sigmas is change.intensity.low_resolution is None


def test_other_policies_draw_what_they_drew_before() -> None:
    change = draw(3, (16, 20, 12), AugmentationPolicy(elastic_probability=1))
    assert change.node_voxels is None
    assert change.control_mm is not None
    assert change.control_mm.shape == (7, 7, 7, 3)
