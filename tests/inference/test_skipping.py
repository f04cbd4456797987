"""Air is not computed, and no label of the body changes for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_TASK, build_plan_for
from torch import Tensor, nn

from medunet.inference import InferenceSettings, Segmenter, find_needed_tiles, paint_labels, plan_tiles
from medunet.io import read_volume
from medunet.models import Model
from medunet.volume import Volume

CPU = torch.device("cpu")


def make_patient(make_volume: Any, orientation: str, modality: str = "CT") -> Volume:
    """A leaning body in a wide field of view, so that corners of the box around it are air."""
    grid = make_volume(shape=(110, 96, 80), spacing=(1.0, 1.1, 1.3), orientation=orientation)
    i, j, k = np.meshgrid(*map(np.arange, grid.spatial_shape), indexing="ij")
    body = ((i - 15 - k) ** 2 + (j - 10 - 0.9 * k) ** 2) < 64
    rng = np.random.default_rng(0)
    tissue = rng.choice([-100.0, 40.0, 300.0], body.shape) if modality == "CT" else rng.uniform(200, 900, body.shape)
    air = rng.normal(-1000, 20, body.shape) if modality == "CT" else rng.uniform(0, 10, body.shape)
    return grid.with_array(np.where(body, tissue, air).astype(np.float32)[None])


class Counting(nn.Module):
    """Looks 2 voxels far, and counts tiles; nothing in air."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.num_tiles = 0

    def forward(self, tiles: Tensor) -> Tensor:
        self.num_tiles += len(tiles)
        smooth = torch.nn.functional.avg_pool3d(tiles, 5, stride=1, padding=2)
        is_air = (tiles < self.threshold).float() * 1e4
        return torch.cat([is_air, smooth, tiles * 0.5, 60 - tiles, tiles * 0, tiles * 0], 1)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAL"])
def test_labels_of_the_body_are_the_same_without_its_air(make_volume: Any, orientation: str, modality: str) -> None:
    scan = make_patient(make_volume, orientation, modality)
    plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (12, 12, 12)).model_copy(update={"modality": modality})
    network = Counting(-500 if modality == "CT" else 50)
    masks, counts = [], []
    for skip_air in (False, True):
        network.num_tiles = 0
        settings = InferenceSettings(skip_air=skip_air)
        masks.append(paint_labels(network, scan, scan, plan, ORACLE_TASK, CPU, settings).array)
        counts.append(network.num_tiles)
    assert counts[0] == len(plan_tiles(scan.spatial_shape, (12, 12, 12)))
    assert counts[1] < 0.8 * counts[0]
    assert len(np.unique(masks[0])) > 2
    assert np.array_equal(masks[0], masks[1])


def test_a_tile_with_one_voxel_of_tissue_near_it_is_computed(make_volume: Any) -> None:
    grid = make_volume(shape=(64, 40, 40), spacing=(1.0, 1.0, 2.0), orientation="RAS")
    array = np.full((1, 64, 40, 40), -1000.0, np.float32)
    array[0, 40, 20, 20] = 0.0
    is_needed = find_needed_tiles(grid.with_array(array), grid, "CT", margin_mm=8)
    assert is_needed is not None
    around = (slice(16, 24), slice(16, 24))
    assert is_needed((slice(36, 44), *around))
    assert is_needed((slice(25, 32), *around))  # 8 mm away
    assert not is_needed((slice(0, 20), *around))
    assert not is_needed((slice(36, 44), slice(16, 24), slice(0, 4)))


def test_every_tile_is_kept_where_the_image_does_not_tell(make_volume: Any) -> None:
    grid = make_volume(shape=(8, 9, 10))
    assert find_needed_tiles(grid.with_array(grid.array - 1000), grid, "MR") is None


def test_a_scan_of_air_alone_is_looked_at_as_a_whole(build_oracle: Callable[..., Model], make_volume: Any) -> None:
    scan = make_volume(shape=(20, 22, 18), spacing=(1.0, 1.0, 1.0))
    air = scan.with_array(np.full(scan.array.shape, -1000, np.float32))
    calls: list[tuple[int, int]] = []
    found = Segmenter(build_oracle(), "cpu").segment(air, on_tiles=lambda *numbers: calls.append(numbers))
    assert not found.labels.array.any()
    num_tiles = len(plan_tiles((20, 22, 18), (12, 16, 8)))
    assert calls[-1] == (num_tiles, num_tiles)


def test_air_within_the_body_is_body(make_volume: Any) -> None:
    grid = make_volume(shape=(96, 96, 60), spacing=(1.0, 1.0, 1.0), orientation="RAS")
    array = np.full((1, 96, 96, 60), -1000.0, np.float32)
    array[0, 10:86, 10:86] = 30.0
    array[0, 20:76, 20:76] = -1000.0  # lungs that the scan cuts at both ends
    is_needed = find_needed_tiles(grid.with_array(array), grid, "CT", margin_mm=0)
    assert is_needed is not None
    assert is_needed((slice(40, 56), slice(40, 56), slice(20, 36)))
    assert not is_needed((slice(0, 7), slice(0, 7), slice(20, 36)))


def test_a_frame_of_the_largest_value_does_not_turn_tissue_into_air(make_volume: Any) -> None:
    scan = make_patient(make_volume, "RAS", "MR")
    scan.array[:, :2] = 32767.0  # more than 1 % of the voxels
    is_needed = find_needed_tiles(scan, scan, "MR")
    assert is_needed is not None
    body = np.argwhere((scan.array[0] > 150) & (scan.array[0] < 1000))
    for voxel in body[:: len(body) // 50]:
        assert is_needed(tuple(slice(int(place), int(place) + 1) for place in voxel))  # type: ignore[arg-type]


@pytest.mark.realdata
def test_no_label_of_a_real_head_and_neck_lies_in_a_skipped_tile(real_data: Path) -> None:
    """Parotids lie under the skin, and the ears and the mask around the head bring air near to them."""
    folder = real_data / "headneck-ct"
    num_skipped = 0
    for path in sorted((folder / "images").glob("*.nii.gz"))[::8]:
        scan, labels = read_volume(path), read_volume(folder / "labels" / path.name)
        is_needed = find_needed_tiles(
            scan, scan, "CT", margin_mm=0
        )  # stricter than inference, which looks 8 mm further
        assert is_needed is not None
        skipped = [box for box in plan_tiles(scan.spatial_shape, (24, 24, 16)).list_boxes() if not is_needed(box)]
        assert labels.array.any()
        assert not any(labels.array[0][box].any() for box in skipped), path.name
        num_skipped += len(skipped)
    assert num_skipped > 100
