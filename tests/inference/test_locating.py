"""The box of the structures is enough: the same mask, for less; and where it is not enough, the whole scan is looked at."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_TASK, AboveThresholds, build_plan_for
from torch import Tensor, nn

from medunet.inference import InferenceSettings, Segmenter
from medunet.inference import locating as locating_module
from medunet.inference.at_once import AtOnce
from medunet.inference.locating import MARGIN_MM, Locator, grow_region
from medunet.models import MeasuredSpeed, Model, SpeedRecord
from medunet.planning import Normalization, build_locator_task
from medunet.preprocessing import preprocess_image
from medunet.volume import Volume

ALWAYS = InferenceSettings(locate="always", skip_air=False)
SMALL_TASK = build_locator_task(ORACLE_TASK)


class Bright(nn.Module):
    """Structures are what is brighter than water by 500."""

    def forward(self, tiles: Tensor) -> Tensor:
        return torch.cat([torch.full_like(tiles, 500.0), tiles], 1)


class Nothing(nn.Module):
    def forward(self, tiles: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(tiles), torch.zeros_like(tiles)], 1)


def make_scan(make_volume: Any, orientation: str = "LPI", *, size: int = 8) -> Volume:
    """Bone in a corner of much fat."""
    grid: Volume = make_volume(shape=(90, 100, 80), spacing=(1.0, 1.2, 1.5), orientation=orientation)
    array = np.full((1, *grid.spatial_shape), -100.0, np.float32)
    array[:, 55 : 55 + size, 20 : 20 + size, 40 : 40 + size] = 900.0
    array[:, 56, 20:22, 40] = 300.0
    return grid.with_array(array)


@pytest.fixture
def build_located(build_oracle: Callable[..., Model]) -> Callable[..., Model]:
    def build(network: nn.Module, **changes: Any) -> Model:
        plan = build_plan_for(SMALL_TASK, (5.0, 5.0, 5.0), (16, 16, 8))
        model = build_oracle(spacing=(1.0, 1.2, 1.5), **changes)
        locator = dataclasses.replace(model, task=SMALL_TASK, plan=plan, network=network)
        # Fat is what is not worth looking at here: the main network calls it background.
        return dataclasses.replace(model, network=OnlyBone(), locator=locator)

    return build


class OnlyBone(nn.Module):
    num_tiles = 0

    def forward(self, tiles: Tensor) -> Tensor:
        OnlyBone.num_tiles += len(tiles)
        zeros = torch.zeros_like(tiles)
        return torch.cat([torch.full_like(tiles, 100.0), zeros, zeros, zeros, zeros, tiles], 1)


def segment(model: Model, scan: Volume, settings: InferenceSettings) -> tuple[np.ndarray, int]:
    OnlyBone.num_tiles = 0
    return Segmenter(model, "cpu", settings).segment(scan).labels.array, OnlyBone.num_tiles


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAL", "PIR"])
def test_the_mask_is_that_of_the_whole_scan_for_a_part_of_its_tiles(
    build_located: Callable[..., Model], make_volume: Any, orientation: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan = make_scan(make_volume, orientation)
    right, anterior, superior = np.abs(scan.affine[:3, :3]).max(axis=1).tolist()
    model = build_located(Bright())
    model = dataclasses.replace(model, plan=model.plan.model_copy(update={"spacing": (right, anterior, superior)}))
    whole, all_tiles = segment(model, scan, InferenceSettings(locate="never", skip_air=False))
    located, tiles = segment(model, scan, ALWAYS)
    assert (whole == 7).sum() > 500
    assert np.array_equal(located, whole)
    assert tiles < 0.35 * all_tiles
    assert not caplog.records


def test_where_nothing_is_found_the_whole_scan_is_segmented_and_that_is_said(
    build_located: Callable[..., Model], make_volume: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scan = make_scan(make_volume)
    model = build_located(Nothing())
    with caplog.at_level(logging.WARNING, "medunet"):
        found, _ = segment(model, scan, ALWAYS)
    assert np.array_equal(found, segment(model, scan, InferenceSettings(locate="never"))[0])
    assert "found no structure; the whole scan" in caplog.text


def test_structures_beyond_the_box_bring_back_the_whole_scan(
    build_located: Callable[..., Model], make_volume: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Thin branches that the small network does not see lead out of the box on all sides."""
    scan = make_scan(make_volume)
    scan.array[:, :, 22:24, 42:44] = scan.array[:, 58:60, :, 42:44] = scan.array[:, 58:60, 22:24, :] = 480.0
    model = build_located(Bright())
    with caplog.at_level(logging.WARNING, "medunet"):
        found, _ = segment(model, scan, ALWAYS)
    assert np.array_equal(found, segment(model, scan, InferenceSettings(locate="never"))[0])
    assert "reach the side of the box" in caplog.text


def test_a_box_that_is_a_little_too_small_grows_where_structures_reach_its_side(
    build_located: Callable[..., Model], make_volume: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scan = make_scan(make_volume)
    scan.array[:, 24:60, 22:24, 42:44] = 480.0
    model = build_located(Bright())
    whole, all_tiles = segment(model, scan, InferenceSettings(locate="never", skip_air=False))
    found, tiles = segment(model, scan, ALWAYS)
    assert whole[0, 24, 22, 42] == 7
    assert np.array_equal(found, whole)
    assert tiles < 0.8 * all_tiles  # of two boxes
    assert not caplog.records


def test_scans_of_several_threads_hold_their_own_warnings(
    build_located: Callable[..., Model], make_volume: Any
) -> None:
    """One model finds no box and says so; the other one, at the same time, has nothing to say."""
    scan = make_scan(make_volume)
    segmenters = [Segmenter(build_located(network), "cpu", ALWAYS) for network in (Nothing(), Bright())]
    with ThreadPoolExecutor(2) as pool:
        fallen_back, located = pool.map(lambda segmenter: segmenter.segment(scan), segmenters)
    assert fallen_back.warnings == ("The small network found no structure; the whole scan is segmented.",)
    assert located.warnings == ()
    assert np.array_equal(fallen_back.labels.array, located.labels.array)


def test_row_69_what_the_small_network_has_no_room_for_is_said_once(
    build_located: Callable[..., Model], make_volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = locating_module.collect_logits

    def collect_and_say(*arguments: Any, batch_size: AtOnce, **options: Any) -> Tensor:
        assert batch_size.batch_size == 1
        batch_size.warn_once("There is no room.")
        return collect(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(locating_module, "collect_logits", collect_and_say)
    segmenter, scan = Segmenter(build_located(Bright()), "cpu", ALWAYS), make_scan(make_volume)
    assert [segmenter.segment(scan).warnings for _ in range(2)] == [("There is no room.",), ()]


def test_the_region_holds_what_was_found_with_a_margin_and_a_patch(make_volume: Any) -> None:
    scan = make_scan(make_volume, "PSL")
    plan = build_plan_for(ORACLE_TASK, (2.0, 2.0, 2.0), (40, 8, 8))
    small = build_plan_for(SMALL_TASK, (4.0, 4.0, 4.0), (16, 16, 8))
    model = Model(
        folder=__import__("pathlib").Path("none"),
        task=SMALL_TASK,
        plan=small,
        training=None,  # type: ignore[arg-type]
        metrics={},
        network=Bright(),  # type: ignore[arg-type]
    )
    region = Locator(model, torch.device("cpu"), "32-true", InferenceSettings()).find_region(scan, plan)
    assert region is not None
    bright = np.argwhere(scan.array[0] > 500)
    for axis, edge in enumerate(region):
        first, last = bright[:, axis].min(), bright[:, axis].max()
        margin = MARGIN_MM / scan.spacing[axis]
        assert edge.start <= max(0, first - margin + 4.0 / scan.spacing[axis])
        assert edge.stop >= min(scan.spatial_shape[axis], last + margin - 4.0 / scan.spacing[axis])
    along_right = {"PSL": 2}["PSL"]
    assert (region[along_right].stop - region[along_right].start) * scan.spacing[along_right] >= 80  # a whole patch


def test_labels_at_a_side_of_the_scan_are_no_reason_to_look_further(make_volume: Any) -> None:
    labels = make_volume(shape=(10, 10, 10), dtype=np.uint8)
    array = np.zeros((1, 10, 10, 10), np.uint8)
    region = (slice(0, 6), slice(2, 8), slice(2, 6))
    array[0, 0, 4, 4] = 1
    assert grow_region(region, labels.with_array(array)) == region
    array[0, 5, 4, 4] = 1
    assert grow_region(region, labels.with_array(array)) == (slice(0, 9), slice(2, 8), slice(2, 6))
    array[0, 3, 2, 5] = 1
    assert grow_region(region, labels.with_array(array)) == (slice(0, 9), slice(0, 8), slice(2, 8))
    array[0, 3, 8, 6] = 1  # outside, where nothing was segmented
    assert grow_region((slice(0, 7), slice(0, 8), slice(2, 8)), labels.with_array(array)) == (
        slice(0, 7),
        slice(0, 8),
        slice(2, 8),
    )


@pytest.mark.parametrize("nonzero_only", [False, True])
def test_a_part_has_the_intensities_of_the_whole(make_volume: Any, nonzero_only: bool) -> None:
    scan = make_volume(shape=(30, 28, 26), spacing=(1.0, 1.0, 1.0), orientation="RAS")
    scan.array[:, :4] = 0
    plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (8, 8, 8)).model_copy(
        update={"modality": "MR", "normalization": (Normalization(rule="zscore", nonzero_only=nonzero_only),)}
    )
    whole = preprocess_image(scan, plan)
    region = (slice(12, 25), slice(3, 20), slice(5, 22))
    part = preprocess_image(scan, plan, region=region)
    offset = np.rint(np.linalg.inv(whole.affine) @ part.affine[:, 3]).astype(int)[:3]
    box = tuple(slice(first, first + n) for first, n in zip(offset, part.spatial_shape, strict=True))
    np.testing.assert_allclose(part.array, whole.array[(slice(None), *box)], atol=1e-5)


def test_auto_does_what_was_measured() -> None:
    def measure(dice: float, seconds: float) -> MeasuredSpeed:
        return MeasuredSpeed(step_fraction=0.5, num_flips=1, dice=dice, seconds=seconds)

    usual = measure(0.8, 10.0)
    for located, uses in ((measure(0.799, 2.0), True), (measure(0.797, 2.0), False), (measure(0.9, 11.0), False)):
        record = SpeedRecord.of(4, usual, usual, None, located)
        assert record.uses_locator is uses
        assert InferenceSettings().resolve_locate(record) is uses
        assert InferenceSettings(locate="always").resolve_locate(record)
        assert not InferenceSettings(locate="never").resolve_locate(record)
    assert not InferenceSettings().resolve_locate(None)


def test_regions_above_thresholds_need_no_locator(build_oracle: Callable[..., Model], make_volume: Any) -> None:
    model = build_oracle(network=AboveThresholds([0.0] * 6))
    found = Segmenter(model, "cpu", InferenceSettings(locate="always")).segment(make_scan(make_volume))
    assert "locate" not in found.timings
