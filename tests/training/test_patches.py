"""A changed patch needs no more than its box, and holds what the whole case would have given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medunet.augmentation import (
    AugmentationPolicy,
    SpatialChange,
    compute_source_offsets,
    compute_zoom_offsets,
    sample_change,
)
from medunet.preprocessing import StoredCase
from medunet.tasks import Task
from medunet.training.patches import (
    choose_start,
    compute_mirrored_codes,
    compute_source_box,
    mirror_patch,
    read_patch,
)

CPU = torch.device("cpu")
SPACING = (0.8, 1.0, 2.1)
ALWAYS = AugmentationPolicy(rotation_probability=1, scaling_probability=1, elastic_probability=1)
NO_ELASTIC = AugmentationPolicy(rotation_probability=1, scaling_probability=1, elastic_probability=0)


def sample_spatial_change(policy: AugmentationPolicy, seed: int, patch_size: Any) -> SpatialChange:
    return sample_change(policy, np.random.default_rng(seed), patch_size, SPACING).spatial


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), patch_size=st.sampled_from([(9, 12, 7), (1, 12, 14), (10, 9, 1)]))
@pytest.mark.parametrize("policy", [ALWAYS, NO_ELASTIC], ids=["elastic", "affine"])
def test_the_box_holds_every_coordinate(policy: AugmentationPolicy, seed: int, patch_size: Any) -> None:
    change = sample_spatial_change(policy, seed, patch_size)
    centre = np.random.default_rng(seed).uniform(40, 60, 3).tolist()
    box = compute_source_box(change, centre, patch_size, SPACING, (100, 100, 100))
    offsets = compute_source_offsets(change, patch_size, SPACING)
    assert offsets is not None
    flat = offsets.reshape(-1, 3).double().numpy() + centre
    for axis, edge in enumerate(box):
        assert edge.start <= np.floor(flat[:, axis].min()) + 1e-3
        assert edge.stop - 1 >= np.ceil(flat[:, axis].max()) - 1e-3
        if policy is NO_ELASTIC:  # then the corners reach the edges
            assert edge.start >= np.floor(flat[:, axis].min()) - 1
            assert edge.stop - 1 <= np.ceil(flat[:, axis].max()) + 1


@pytest.mark.parametrize("centre", [(-30.0, 5.0, 5.0), (200.0, 5.0, 5.0)])
def test_the_box_of_a_patch_beyond_the_border_is_the_border(centre: Any) -> None:
    i, j, k = compute_source_box(SpatialChange(matrix=np.eye(3)), centre, (4, 4, 4), SPACING, (10, 11, 12))
    assert (i.start, i.stop) in ((0, 1), (9, 10))
    assert (j.start, j.stop, k.start, k.stop) == (3, 8, 3, 8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("start", [(8, 9, 6), (-3, 15, 14)])
def test_a_warped_patch_is_interpolated_from_the_whole_case(
    make_case: Callable[..., StoredCase], seed: int, start: Any
) -> None:
    """SciPy interpolates the whole case at the same coordinates."""
    case = make_case(shape=(24, 26, 22), fill=-5.0)
    assert case.image is not None
    case.image.copy_(torch.randn(case.image.shape, generator=torch.Generator().manual_seed(seed)))
    size = (9, 8, 7)
    change = sample_spatial_change(ALWAYS, seed, size)
    image, codes = read_patch(case, start, change, size, SPACING, CPU)
    offsets = compute_source_offsets(change, size, SPACING)
    assert offsets is not None
    centre = np.array(start) + (np.array(size) - 1) / 2
    positions = np.moveaxis(offsets.double().numpy() + centre, -1, 0)
    expected = map_coordinates(case.image[0].double().numpy(), positions, order=1, mode="nearest")
    low, high = -0.5, np.reshape(case.shape, (3, 1, 1, 1)) - 0.5
    is_outside = ((positions < low) | (positions > high)).any(0)
    expected[is_outside] = -5
    is_clear = (np.abs(positions - low) > 1e-3).all(0) & (np.abs(positions - high) > 1e-3).all(0)
    assert np.abs(image[0].numpy() - expected)[is_clear].max() < 1e-3
    assert is_clear.mean() > 0.9
    assert not codes.any()
    assert is_outside.any() == (start == (-3, 15, 14))


@pytest.mark.parametrize("start", [(8, 9, 6), (-3, 15, 14), (15, -4, 2)])
@pytest.mark.parametrize("factors", [(0.8, 0.8, 0.8), (1.3, 1.0, 1.3), (1.4, 1.4, 1.4)])
def test_a_patch_that_is_only_zoomed_is_what_any_change_would_give(
    make_case: Callable[..., StoredCase], monkeypatch: pytest.MonkeyPatch, start: Any, factors: Any
) -> None:
    """Axis by axis, or voxel by voxel as everything that turns: the same image to rounding, the very same labels."""
    case = make_case(shape=(24, 26, 22), fill=-5.0)
    assert case.image is not None
    assert case.labels is not None
    generator = torch.Generator().manual_seed(0)
    case.image.copy_(torch.randn(case.image.shape, generator=generator))
    coarse = torch.randint(0, 4, (6, 7, 6), generator=generator, dtype=torch.uint8)
    case.labels.copy_(coarse.repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)[:24, :26, :22])
    change, size = SpatialChange(matrix=np.diag(factors)), (9, 8, 7)
    image, codes = read_patch(case, start, change, size, SPACING, CPU)
    monkeypatch.setattr("medunet.training.patches.compute_zoom_offsets", lambda *_: None)
    expected, expected_codes = read_patch(case, start, change, size, SPACING, CPU)
    assert torch.allclose(image, expected, atol=1e-4)
    assert torch.equal(codes, expected_codes)
    assert len(codes.unique()) > 1
    assert (image == -5).any() == (start != (8, 9, 6))


def test_a_turned_or_bent_patch_is_not_taken_for_a_zoomed_one() -> None:
    turned = np.eye(3)
    turned[0, 1] = 1e-3
    assert compute_zoom_offsets(SpatialChange(), (4, 5, 6)) is None
    assert compute_zoom_offsets(SpatialChange(matrix=turned), (4, 5, 6)) is None
    assert compute_zoom_offsets(SpatialChange(matrix=np.eye(3), control_mm=np.zeros((4, 4, 4, 3))), (4, 5, 6)) is None
    assert compute_zoom_offsets(SpatialChange(matrix=np.eye(3), node_voxels=np.zeros((3, 3, 3, 3))), (4, 5, 6)) is None
    i, j, k = compute_zoom_offsets(SpatialChange(matrix=np.diag([2.0, 1, 0.5])), (2, 3, 1)) or ()
    assert (i.tolist(), j.tolist(), k.tolist()) == ([-1, 1], [-1, 0, 1], [0])


def test_a_zoomed_patch_is_bent_as_well(make_case: Callable[..., StoredCase]) -> None:
    """Nodes that all move by one voxel shift the zoomed patch by one voxel."""
    case, size = make_case(shape=(24, 26, 22)), (9, 8, 7)
    matrix, nodes = np.diag([0.5, 1.0, 1.0]), np.zeros((3, 3, 3, 3))
    nodes[..., 1] = 1
    bent, _ = read_patch(case, (8, 9, 6), SpatialChange(matrix=matrix, node_voxels=nodes), size, SPACING, CPU)
    shifted, _ = read_patch(case, (8, 10, 6), SpatialChange(matrix=matrix), size, SPACING, CPU)
    unmoved, _ = read_patch(case, (8, 9, 6), SpatialChange(matrix=matrix), size, SPACING, CPU)
    assert torch.allclose(bent, shifted, atol=1e-2)
    assert (bent - unmoved).abs().min() > 10


def test_codes_are_warped_as_the_winner_of_their_shares(make_case: Callable[..., StoredCase]) -> None:
    """Half a voxel further, two voxels of label 2 in a row of 1 stay two voxels wide."""
    case = make_case(shape=(20, 5, 5))
    assert case.labels is not None
    case.labels.fill_(1)
    case.labels[8:10] = 2
    shift = np.zeros((4, 4, 4, 3))
    shift[..., 0] = 0.4 * SPACING[0]
    _, codes = read_patch(case, (4, 1, 1), SpatialChange(control_mm=shift), (12, 3, 3), SPACING, CPU)
    assert codes[:, 1, 1].tolist() == [1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1]


def test_only_the_box_is_read(make_case: Callable[..., StoredCase], monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(shape=(60, 60, 60))
    boxes: list[Any] = []
    real = StoredCase.read_box

    def read_box(self: StoredCase, box: Any, device: Any = None) -> Any:
        boxes.append(box)
        return real(self, box, device)

    monkeypatch.setattr(StoredCase, "read_box", read_box)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter around the third axis
    read_patch(case, (20, 20, 20), SpatialChange(matrix=turn), (9, 5, 3), (1.0, 1.0, 1.0), CPU)
    read_patch(case, (20, 20, 20), SpatialChange(), (9, 5, 3), (1.0, 1.0, 1.0), CPU)
    sizes = [tuple(edge.stop - edge.start for edge in box) for box in boxes]
    assert len(boxes) == 2
    assert all(size <= want + 2 for size, want in zip(sizes[0], (5, 9, 3), strict=True))
    assert sizes[1] == (9, 5, 3)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2), ()])
def test_only_the_left_right_flip_swaps_labels(tiny_task: Task, axes: Any) -> None:
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    codes = torch.zeros(2, 3, 4, dtype=torch.uint8)
    codes[0, 0, 0], codes[1, 2, 3] = 1, 255
    flipped, flipped_codes = mirror_patch(image, codes, axes, compute_mirrored_codes(tiny_task))
    assert torch.equal(flipped, image.flip([1 + axis for axis in axes]))
    where = tuple(size - 1 if axis in axes else 0 for axis, size in enumerate((2, 3, 4)))
    assert flipped_codes[where] == (2 if 0 in axes else 1)
    assert flipped_codes.sum() == int(flipped_codes[where]) + 255


def test_a_start_is_drawn_the_same_with_and_without_a_label(make_case: Callable[..., StoredCase]) -> None:
    case = make_case(shape=(30, 30, 4), foreground={3: [(29, 15, 0)]})
    start = choose_start(case, (10, 10, 8), 3, np.random.default_rng(0))
    assert start[:2] == (20, 10)  # clamped at the end, centred in the middle
    assert start[2] == choose_start(case, (10, 10, 8), None, np.random.default_rng(0))[2]  # around the smaller case
