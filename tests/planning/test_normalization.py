"""The intensity rules of a plan."""

from __future__ import annotations

import pytest
from made_up_fingerprints import make_fingerprint, make_task
from pydantic import ValidationError

from medunet.planning import ChannelStatistics, Effort, MemoryTarget, Normalization, build_plan
from medunet.tasks import load_task

LARGE = Effort(voxels=2 * 128**3, features=32)


def test_each_channel_has_its_rule() -> None:
    task = make_task(channels=["t1", "t2"])
    plan = build_plan(make_fingerprint(num_channels=2), task, LARGE)
    assert plan.normalization == (Normalization(rule="zscore"),) * 2
    none = build_plan(make_fingerprint(), make_task(intensity="none"), LARGE)
    assert none.normalization == (Normalization(rule="none"),)


def test_the_window_becomes_minus_one_to_one() -> None:
    plan = build_plan(make_fingerprint(), load_task("prostate-ct"), LARGE)
    assert plan.normalization == (Normalization(rule="ct-window", lower=-200, upper=350, mean=75, std=275),)


def test_percentiles_are_those_of_the_foreground() -> None:
    plan = build_plan(make_fingerprint(), load_task("spleen-ct"), LARGE)
    assert plan.normalization == (Normalization(rule="ct-percentile", lower=-30, upper=120, mean=50, std=20),)


def test_a_foreground_of_one_value_does_not_divide_by_zero() -> None:
    flat = ChannelStatistics(
        mean=5.0, median=5.0, std=0.0, minimum=5.0, maximum=5.0, percentile_00_5=5.0, percentile_99_5=5.0
    )
    fingerprint = make_fingerprint().model_copy(update={"channels": (flat,)})
    assert build_plan(fingerprint, load_task("spleen-ct"), LARGE).normalization[0].std == 1e-6


@pytest.mark.parametrize("missing", ["lower", "upper", "mean", "std"])
def test_a_ct_rule_without_its_numbers_is_refused(missing: str) -> None:
    numbers = {"lower": 0.0, "upper": 1.0, "mean": 0.5, "std": 0.5}
    with pytest.raises(ValidationError, match="needs lower, upper, mean and a std above 0"):
        Normalization.model_validate({"rule": "ct-window"} | numbers | {missing: None})
    with pytest.raises(ValidationError, match="std above 0"):
        Normalization.model_validate({"rule": "ct-percentile"} | numbers | {"std": 0.0})


@pytest.mark.parametrize(("nonzero_share", "nonzero_only"), [(0.3, True), (0.7499, True), (0.75, False), (1.0, False)])
def test_zeros_are_left_out_where_they_are_many(nonzero_share: float, nonzero_only: bool) -> None:
    """nnU-Net's rule: the crop left less than three quarters of the median case."""
    plan = build_plan(make_fingerprint(nonzero_share=nonzero_share), make_task(), MemoryTarget())
    assert plan.normalization == (Normalization(rule="zscore", nonzero_only=nonzero_only),)
    assert f"{nonzero_share:.0%} of the median case" in plan.reasons["normalization"]
    ct = build_plan(make_fingerprint(nonzero_share=nonzero_share), load_task("spleen-ct"), MemoryTarget())
    assert not ct.normalization[0].nonzero_only


@pytest.mark.parametrize("rule", ["none", "ct-window", "ct-percentile"])
def test_only_the_z_score_can_leave_zeros_out(rule: str) -> None:
    numbers = {"lower": 0.0, "upper": 1.0, "mean": 0.5, "std": 0.5}
    with pytest.raises(ValidationError, match=f"nonzero_only belongs to the rule zscore, not to {rule}"):
        Normalization.model_validate({"rule": rule, "nonzero_only": True} | numbers)
