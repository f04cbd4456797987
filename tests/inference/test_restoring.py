"""The oracle's mask is known at every voxel, so the way to the network's grid and back is exact or it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import AboveThresholds, build_plan_for
from torch import Tensor, nn

from medunet.errors import ModelError
from medunet.inference import Segmenter, restore_label_map
from medunet.models import Model
from medunet.preprocessing import preprocess_image
from medunet.tasks import Task
from medunet.volume import Volume

ORIENTATIONS = ["RAS", "LPI", "LAS", "PIR", "SAL", "IPR", "ASL", "RIP"]


def to_ras_spacing(volume: Volume) -> tuple[float, float, float]:
    """The spacing along R, A and S."""
    right, anterior, superior = np.abs(volume.affine[:3, :3]).max(axis=1).tolist()
    return right, anterior, superior


class OneEverywhere(nn.Module):
    def forward(self, patches: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(patches[:, :1]), torch.ones_like(patches[:, :1])], 1)


def build_task(**changes: Any) -> Task:
    content = {"name": "x", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none"}
    return Task.model_validate(content | changes)


# ---- the same voxels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(0.7, 1.2, 3.0), (1.0, 1.0, 1.0), (2.5, 0.9, 0.9)])
def test_the_mask_lies_on_the_scans_own_grid(
    build_oracle: Callable[..., Model], make_densities: Any, orientation: str, spacing: tuple[float, float, float]
) -> None:
    scan, expected = make_densities(orientation=orientation, spacing=spacing)
    segmentation = Segmenter(build_oracle(spacing=to_ras_spacing(scan)), "cpu").segment(scan)
    assert np.array_equal(segmentation.labels.array, expected.array)
    assert np.array_equal(segmentation.labels.affine, scan.affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_body_far_from_the_border_is_put_back_where_it_was(
    build_oracle: Callable[..., Model], make_densities: Any, orientation: str
) -> None:
    # More air than the 8 mm that stay around the body, and not as much on either side.
    scan, expected = make_densities(shape=(9, 8, 11), spacing=(1.0, 2.0, 1.5), orientation=orientation)
    air = [(0, 0), (13, 10), (9, 5), (7, 12)]
    wide = Volume(np.pad(scan.array, air, constant_values=-1000), scan.affine)
    mask = Segmenter(build_oracle(spacing=to_ras_spacing(scan)), "cpu").segment(wide).labels
    assert np.array_equal(mask.array, np.pad(expected.array, air))


def test_values_are_the_tasks_own(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    scan, _ = make_densities()
    labels = Segmenter(build_oracle(spacing=to_ras_spacing(scan)), "cpu").segment(scan).labels
    assert np.unique(labels.array).tolist() == [0, 1, 2, 3, 4, 7]
    assert labels.array.dtype == np.uint8


def test_values_above_255_survive(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    task = build_task(labels={"a": 1, "b": 300, "c": 70_000, "d": 4, "e": 5})
    scan, _ = make_densities()
    labels = Segmenter(build_oracle(task, spacing=to_ras_spacing(scan)), "cpu").segment(scan).labels
    assert np.unique(labels.array).tolist() == [0, 1, 4, 5, 300, 70_000]


def test_an_oblique_scan_keeps_its_grid(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    scan, expected = make_densities(orientation="RAS", spacing=(1.0, 1.0, 2.0))
    angle = np.deg2rad(18)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    scan = Volume(scan.array, turn @ scan.affine)
    segmentation = Segmenter(build_oracle(spacing=(1.0, 1.0, 2.0)), "cpu").segment(scan)
    assert np.array_equal(segmentation.labels.array, expected.array)
    assert np.array_equal(segmentation.labels.affine, scan.affine)


# ---- the same place after resampling -----------------------------------------------------------------------------------


def make_ball(make_volume: Any, spacing: tuple[float, float, float], orientation: str) -> tuple[Volume, np.ndarray]:
    """A ball of bone of 9 mm in muscle, and its centre in the world."""
    shape = tuple(int(48 // mm) for mm in spacing)
    grid = make_volume(shape=shape, spacing=spacing, orientation=orientation)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    positions = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    centre = positions.reshape(-1, 3).mean(0) + np.array([1.3, -2.1, 0.4])
    inside = np.linalg.norm(positions - centre, axis=-1) <= 9
    return grid.with_array(np.where(inside, 900.0, 100.0).astype(np.float32)[None]), centre


def compute_centroid(volume: Volume, value: int) -> np.ndarray:
    voxels = np.argwhere(volume.array[0] == value).mean(0)
    return np.asarray(volume.affine[:3, :3] @ voxels + volume.affine[:3, 3])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(1.0, 1.4, 2.5), (3.0, 0.8, 0.8)])
def test_a_ball_stays_where_it_is_through_another_spacing(
    build_oracle: Callable[..., Model], make_volume: Any, orientation: str, spacing: tuple[float, float, float]
) -> None:
    scan, _ = make_ball(make_volume, spacing, orientation)
    mask = Segmenter(build_oracle(spacing=(1.5, 1.6, 1.7)), "cpu").segment(scan).labels
    reference = scan.array[0] == 900
    prediction = mask.array[0] == 7
    dice = 2 * (reference & prediction).sum() / (reference.sum() + prediction.sum())
    # Shifts of half a voxel, the usual fault, cost more than twice as much.
    assert dice > 0.93
    true = compute_centroid(scan.with_array(reference[None].astype(np.uint8)), 1)
    assert np.linalg.norm(compute_centroid(mask, 7) - true) < 0.25


# ---- outside the body --------------------------------------------------------------------------------------------------


def test_outside_the_body_is_background(build_oracle: Callable[..., Model], make_volume: Any) -> None:
    grid = make_volume(shape=(40, 44, 30), spacing=(1.0, 1.0, 2.0), orientation="LPI")
    array = np.full((1, 40, 44, 30), -1000, np.float32)
    array[:, 12:20, 15:29, 10:14] = 40
    model = build_oracle(build_task(labels={"a": 5}), spacing=(1.0, 1.0, 2.0), network=OneEverywhere())
    labels = Segmenter(model, "cpu").segment(grid.with_array(array)).labels
    expected = np.zeros((40, 44, 30), np.uint8)
    expected[4:28, 7:37, 6:18] = 5  # 8 mm around the body
    assert np.array_equal(labels.array[0], expected)


def test_a_scan_without_a_body_is_looked_at_as_a_whole(build_oracle: Callable[..., Model], make_volume: Any) -> None:
    scan = make_volume(spacing=(1.0, 1.0, 1.0))
    scan = scan.with_array(np.full_like(scan.array, -1000))
    model = build_oracle(build_task(labels={"a": 5}), network=OneEverywhere())
    assert (Segmenter(model, "cpu").segment(scan).labels.array == 5).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (5, 40, 2)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.7, 0.6, 2.9)])
def test_no_voxel_of_a_tiny_scan_is_lost(
    build_oracle: Callable[..., Model],
    make_volume: Any,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
) -> None:
    scan = make_volume(shape=shape, spacing=spacing)
    model = build_oracle(build_task(labels={"a": 5}), spacing=(1.3, 1.3, 1.3), network=OneEverywhere())
    assert (Segmenter(model, "cpu").segment(scan).labels.array == 5).all()


# ---- regions -----------------------------------------------------------------------------------------------------------


def test_regions_are_painted_from_the_outside_in(build_oracle: Callable[..., Model], make_volume: Any) -> None:
    # Whole {1, 2, 3}, core {2, 3} and enhancing {3}: above 0, 100 and 200.
    task = build_task(modality="MR", labels={"enhancing": 3, "whole": [1, 2, 3], "core": [2, 3]})
    scan = make_volume(shape=(11, 13, 17), spacing=(1.0, 2.0, 1.0), orientation="RAS")
    model = build_oracle(task, spacing=(1.0, 2.0, 1.0), network=AboveThresholds([200.0, 0.0, 100.0]))
    segmentation = Segmenter(model, "cpu").segment(scan)
    expected = (scan.array > 0).astype(int) + (scan.array > 100) + (scan.array > 200)
    # The network's grid is float32: leave out what lies on a threshold.
    certain = np.min([np.abs(scan.array - edge) for edge in (0, 100, 200)], axis=0) > 1e-3
    assert np.array_equal(segmentation.labels.array[certain], expected[certain])
    ml = {name: volume.visible_ml for name, volume in segmentation.volumes.items()}
    assert ml["whole"] > ml["core"] > ml["enhancing"]


def test_a_logit_of_exactly_zero_is_no_region(make_volume: Any) -> None:
    task = build_task(labels={"whole": [1, 2], "core": 2})
    scan = make_volume(spacing=(1.0, 1.0, 1.0), orientation="RAS")
    prepared = preprocess_image(scan, build_plan_for(task, (1.0, 1.0, 1.0), (8, 8, 8)))
    logits = torch.zeros(2, *prepared.spatial_shape)
    assert not restore_label_map(logits, prepared, scan, task).array.any()
    logits[0] = 1e-3
    assert (restore_label_map(logits, prepared, scan, task).array == 1).all()


# ---- ends of a scan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_slices", [103, 104, 105, 106, 107])
def test_the_last_slices_are_not_lost_where_whole_voxels_of_the_network_cover_less(
    build_oracle: Callable[..., Model], make_volume: Any, num_slices: int
) -> None:
    # 105 slices of 0.5 mm are 10.5 slices of 5 mm, of which 10 cover all but 1.25 mm at each end.
    scan = make_volume(shape=(6, 5, num_slices), spacing=(1.0, 1.0, 0.5))
    model = build_oracle(build_task(labels={"a": 5}), spacing=(1.0, 1.0, 5.0), network=OneEverywhere())
    segmentation = Segmenter(model, "cpu").segment(scan)
    assert (segmentation.labels.array == 5).all()
    assert segmentation.volumes_ml == {"a": None}  # the scan cuts it, which blank slices would hide


# ---- numbers that are none -------------------------------------------------------------------------------------------------


class OnceBroken(nn.Module):
    """One voxel of one class has no number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(number))

    def forward(self, patches: Tensor) -> Tensor:
        logits = patches.new_zeros((len(patches), 2, *patches.shape[2:]))
        logits[:, 1, 2, 3, 1] = self.number
        return logits


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("with_maps", [False, True])
def test_a_network_that_answers_with_no_numbers_makes_no_mask(
    build_oracle: Callable[..., Model], make_volume: Any, number: float, with_maps: bool
) -> None:
    scan = make_volume(shape=(20, 12, 9), spacing=(1.0, 1.0, 1.0))
    segmenter = Segmenter(build_oracle(build_task(labels={"a": 5}), network=OnceBroken(number)), "cpu")
    with pytest.raises(ModelError, match="not finite"):
        segmenter.segment(scan, probabilities=with_maps)
