"""Fingerprint and plan as text: every number and every reason, in lines that fit."""

from __future__ import annotations

from typing import Any

import pytest
from made_up_fingerprints import make_fingerprint, make_task

from medunet.planning import CPU_EFFORT, MemoryTarget, build_plan
from medunet.reporting.plan_page import format_fingerprint, format_plan


def normalise(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("target", [CPU_EFFORT, MemoryTarget(), MemoryTarget(preset="XL")])
@pytest.mark.parametrize("configuration", ["2d", "3d"])
def test_every_choice_and_its_reason_is_there(target: Any, configuration: Any) -> None:
    plan = build_plan(make_fingerprint((0.8, 0.8, 3.0), (300, 280, 90)), make_task(), target, configuration)
    text = format_plan(plan)
    flat = normalise(text)
    assert all(normalise(reason) in flat for reason in plan.reasons.values())
    assert plan.reasons
    for shown in (plan.configuration, plan.network.architecture, plan.optimizer.name, f"{plan.batch_size} patches"):
        assert shown in flat
    assert "x".join(map(str, plan.patch_size)) + " voxels" in flat
    assert "0.8x0.8x3 mm (R x A x S)" in flat
    stages = [line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0].isdecimal()]
    assert [int(stage[1]) for stage in stages if len(stage) == 5] == list(plan.network.features)
    assert max(map(len, text.splitlines())) <= 100


def test_a_reason_without_a_row_of_its_own_is_a_row() -> None:
    plan = build_plan(make_fingerprint(), make_task(), CPU_EFFORT)
    plan = plan.model_copy(update={"reasons": plan.reasons | {"some_day": "as nobody knows"}})
    assert "some day as nobody knows" in normalise(format_plan(plan))


def test_a_fingerprint_in_words() -> None:
    fingerprint = make_fingerprint((1.0, 1.5, 3.0), (36, 50, 35), 20, label_volumes_ml={"a": 1.234})
    text = normalise(format_fingerprint(fingerprint, make_task()))
    assert "Dataset: 20 case(s)" in text
    assert "voxel size 1x1.5x3 mm (R x A x S)" in text
    assert "36x50x35 voxels" in text
    assert "labelled t1 50 ± 20; 0.5th to 99.5th percentile -30 to 120" in text
    assert "a 20 1.234" in text
    assert "b 0 -" in text


def test_spread_is_told_where_cases_differ() -> None:
    fingerprint = make_fingerprint(num_cases=2)
    fingerprint = fingerprint.model_copy(update={"spacings": ((1.0, 1.0, 2.0), (1.0, 1.0, 4.0))})
    assert "median 1x1x3, from 1x1x2 to 1x1x4 mm" in normalise(format_fingerprint(fingerprint, make_task()))
