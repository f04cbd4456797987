"""What was measured is what segmenting in these ways gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import SPACING, TASK, write_blobs
from oracles import build_plan_for
from torch import Tensor, nn

from medunet.evaluation import score_case
from medunet.inference import InferenceSettings
from medunet.tasks import Case, read_case, read_dataset
from medunet.training import speed as speed_module
from medunet.training.progress import Observer
from medunet.training.speed import measure_speeds
from medunet.training.validation import NetworkSegmenter

PLAN = build_plan_for(TASK, SPACING, (8, 12, 8))


class OneSided(nn.Module):
    """Knows the bright and the dark blob, but only in the first half of its tile; mirrored passes see the rest."""

    def forward(self, tiles: Tensor) -> Tensor:
        is_known = (torch.arange(tiles.shape[2]) < tiles.shape[2] // 2)[:, None, None]
        return torch.cat([torch.full_like(tiles, 0.1), (tiles - 1) * is_known, (-tiles - 1) * is_known], 1)


def build_segmenter(**changes: Any) -> NetworkSegmenter:
    return NetworkSegmenter(
        network=OneSided(),
        task=TASK,
        plan=PLAN.model_copy(update=changes),
        device=torch.device("cpu"),
        precision="32-true",
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return list(read_dataset(write_blobs(tmp_path)).cases)


def compute_dice(segmenter: NetworkSegmenter, cases: list[Case], settings: InferenceSettings) -> float:
    means = []
    for case in cases:
        image, reference = read_case(case, TASK)
        scores = score_case(reference, segmenter.segment(image, settings), TASK.labels, case_id=case.case_id)
        means.append(np.mean([score.dice for score in scores]))
    return float(np.mean(means))


def test_every_way_gets_the_dice_it_has(cases: list[Case]) -> None:
    segmenter = build_segmenter()
    record = measure_speeds(segmenter, cases, 0.0, Observer())
    assert record is not None
    assert record.num_cases == 3
    assert record.best is not None
    for measured, settings in (
        (record.fast, InferenceSettings(speed="fast")),
        (record.balanced, InferenceSettings(flips="none")),
        (record.best, InferenceSettings(speed="best")),
    ):
        assert measured.dice == pytest.approx(compute_dice(segmenter, cases, settings), abs=1e-5)
        assert measured.seconds > 0
    assert (record.fast.step_fraction, record.balanced.step_fraction, record.best.step_fraction) == (0.75, 0.5, 0.5)
    assert (record.fast.num_flips, record.balanced.num_flips, record.best.num_flips) == (1, 1, 2)


def test_mirrored_passes_that_help_are_used_from_then_on(cases: list[Case]) -> None:
    segmenter = build_segmenter()
    record = measure_speeds(segmenter, cases, 0.0, Observer())
    assert record is not None
    assert record.best is not None
    assert record.best.dice > record.balanced.dice + 0.01
    assert record.uses_flips
    image, _ = read_case(cases[0], TASK)
    auto = segmenter.segment(image, speed=record).array
    assert np.array_equal(auto, segmenter.segment(image, InferenceSettings(speed="best")).array)
    assert not np.array_equal(auto, segmenter.segment(image).array)


def test_a_network_that_knows_no_mirrored_tiles_is_not_asked_for_them(cases: list[Case]) -> None:
    record = measure_speeds(build_segmenter(patch_size=(1, 12, 8)), cases, 0.0, Observer())
    assert record is not None
    assert record.best is None
    assert not record.uses_flips


def test_a_broken_case_is_passed_over(cases: list[Case]) -> None:
    cases[1].images[0].write_bytes(b"")
    record = measure_speeds(build_segmenter(), cases, 0.0, Observer())
    assert record is not None
    assert record.num_cases == 2


def test_measuring_ends_with_its_share_of_the_time(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "_MIN_SECONDS", 0.0)
    record = measure_speeds(build_segmenter(), cases, 0.0, Observer())
    assert record is not None
    assert record.num_cases == 1
