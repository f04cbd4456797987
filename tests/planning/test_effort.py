"""What a budget pays for, on devices whose speed is a formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
from made_up_fingerprints import make_fingerprint, make_task

from medunet.errors import InputError
from medunet.planning import GPU_EFFORT, Effort, Plan, build_plan, fit_effort
from medunet.planning.effort import (
    MIN_ITERATIONS,
    MIN_ITERATIONS_FOR_BATCHES,
    MIN_ITERATIONS_FOR_FULL_RESOLUTION,
    list_rungs,
)

CPU = Effort(voxels=2 * 96**3, features=32)


def cost(plan: Plan) -> float:
    """Seconds of a step that follow voxels and channels."""
    first, second, *_ = plan.network.features
    return 1e-7 * math.prod(plan.patch_size) * plan.batch_size * ((first + second / 2) / 2) ** 1.5


@pytest.mark.parametrize("largest", [GPU_EFFORT, CPU])
@pytest.mark.parametrize("configuration", ["2d", "3d"])
def test_more_time_never_buys_less(largest: Effort, configuration: Any) -> None:
    fingerprint, tried = make_fingerprint(shape=(150, 160, 140), num_cases=40), []

    def measure(plan: Plan) -> float:
        tried.append(plan)
        return cost(plan)

    before = 0.0
    for budget_seconds in (1, 300, 3_000, 30_000, 300_000, 1e9):
        tried.clear()
        fitted = fit_effort(
            fingerprint, make_task(), budget_seconds, measure, largest=largest, configuration=configuration
        )
        assert fitted.seconds_per_step >= before
        before = fitted.seconds_per_step
        assert fitted.seconds_per_step in [cost(plan) for plan in tried]
        assert len(tried) <= 7  # a search, not a tour
        assert fitted.num_iterations == max(1, int(budget_seconds / fitted.seconds_per_step))
        assert fitted.effort.features <= largest.features
    assert fitted.effort.features == largest.features


def test_every_rung_leaves_its_steps() -> None:
    """Just enough time for a rung buys it or a later one; a second less than that buys an earlier one."""
    fingerprint = make_fingerprint(shape=(60, 60, 60))
    rungs = [rung for rung in list_rungs(CPU, "3d") if rung.effort.batch_size == 2]  # for more there is no memory
    plans = [build_plan(fingerprint, make_task(), rung.effort) for rung in rungs]
    needed = [cost(plan) * rung.min_iterations for plan, rung in zip(plans, rungs, strict=True)]
    assert needed == sorted(needed)  # so that halving the list finds the last affordable one
    for index in range(1, len(rungs)):
        if needed[index] == needed[index - 1]:
            continue
        enough = fit_effort(fingerprint, make_task(), needed[index] * 1.001, cost, largest=CPU)
        assert enough.seconds_per_step == pytest.approx(cost(plans[index]))
        short = fit_effort(fingerprint, make_task(), needed[index] * 0.999, cost, largest=CPU)
        assert short.seconds_per_step == pytest.approx(cost(plans[index - 1]))


def test_patches_grow_before_channels_and_batches_come_last() -> None:
    rungs = list_rungs(GPU_EFFORT, "3d")
    features = [rung.effort.features for rung in rungs]
    assert features == sorted(features)
    assert {rung.effort.voxels for rung in rungs if rung.effort.features > 16 and rung.effort.batch_size == 2} == {
        2 * 128**3
    }
    assert [rung.effort.batch_size for rung in rungs][-2:] == [2 * factor for factor in MIN_ITERATIONS_FOR_BATCHES]
    assert rungs[0].min_iterations == MIN_ITERATIONS < MIN_ITERATIONS_FOR_FULL_RESOLUTION


def test_channels_grow_below_full_resolution_first() -> None:
    """Just before the finest stage gets its whole width, all other stages have theirs, and nothing else differs."""
    fingerprint, task = make_fingerprint(shape=(300, 300, 300)), make_task()
    rungs = list_rungs(CPU, "3d")
    features = [build_plan(fingerprint, task, rung.effort).network.features for rung in rungs]
    first_whole = features.index((32, 64, 128, 256, 320))
    assert features[first_whole - 2 : first_whole] == [(16, 32, 64, 128, 256), (16, 64, 128, 256, 320)]
    assert [rung.min_iterations for rung in rungs[first_whole - 1 : first_whole + 1]] == [
        MIN_ITERATIONS,
        MIN_ITERATIONS_FOR_FULL_RESOLUTION,
    ]
    plan = build_plan(fingerprint, task, rungs[first_whole - 1].effort)
    assert plan.reasons["network"].endswith("; 16 channels in the first, 64 in the second")


def test_a_device_for_narrow_networks_has_no_wider_rungs() -> None:
    rungs = list_rungs(Effort(voxels=2 * 64**3, features=8), "3d")
    assert {(rung.effort.features, rung.effort.full_resolution_features) for rung in rungs} == {(8, None)}


def test_small_cases_are_not_timed_twice() -> None:
    """All patches from 48 voxels on hold a whole hippocampus."""
    tried = []

    def measure(plan: Plan) -> float:
        tried.append((plan.patch_size, plan.batch_size, plan.network.features))
        return cost(plan)

    fit_effort(make_fingerprint(), make_task(), 900.0, measure, largest=CPU)
    assert len(tried) == len(set(tried))


def test_memory_bounds_the_batch() -> None:
    """Patches of 96 voxels fill the memory: there is no room for four of them, whatever the time."""
    fitted = fit_effort(make_fingerprint(shape=(300, 300, 300)), make_task(), 1e9, cost, largest=CPU)
    plan = build_plan(make_fingerprint(shape=(300, 300, 300)), make_task(), fitted.effort)
    assert math.prod(plan.patch_size) * plan.batch_size <= CPU.voxels
    small = fit_effort(make_fingerprint(), make_task(), 1e9, cost, largest=CPU)
    assert small.effort.batch_size == 8


def test_a_budget_too_small_takes_the_smallest_effort() -> None:
    fitted = fit_effort(make_fingerprint(), make_task(), 1.0, lambda plan: 5.0, largest=GPU_EFFORT)
    assert (fitted.effort.voxels, fitted.effort.features) == (2 * 32**3, 16)
    assert (fitted.seconds_per_step, fitted.num_iterations) == (5.0, 1)


def test_the_reason_says_what_was_bought_and_what_more_would_buy() -> None:
    fitted = fit_effort(make_fingerprint(), make_task(), 600.0, lambda plan: 0.4, largest=CPU)
    assert "a step takes 0.4 s here (timed uncompiled and without loading data)" in fitted.reason
    assert ", so 10 min buy 1,500 steps with 2 patches of 40x56x40 voxels and 16 channels, 64 below" in fitted.reason
    assert "from 13 min on, 2 patches of 40x56x40 voxels and 32 channels would be taken" in fitted.reason


def test_what_more_would_buy_may_be_wider_below_full_resolution_only() -> None:
    """The next plan has as many channels at full resolution; its words must differ all the same."""
    narrow = build_plan(make_fingerprint(), make_task(), Effort(voxels=2 * 64**3, features=16, batch_size=2))
    budget_seconds = 1.1 * MIN_ITERATIONS * cost(narrow)
    fitted = fit_effort(make_fingerprint(), make_task(), budget_seconds, cost, largest=CPU)
    assert " and 16 channels; from " in fitted.reason
    assert fitted.reason.endswith(
        "2 patches of 40x56x40 voxels and 16 channels, 64 below full resolution would be taken"
    )


def test_at_the_end_of_the_ladder_more_time_is_more_steps() -> None:
    fitted = fit_effort(make_fingerprint(), make_task(), 1e9, lambda plan: 0.2, largest=CPU)
    assert fitted.reason.endswith("; more time buys more steps of the same")


def test_what_the_memory_does_not_hold_is_never_taken() -> None:
    """However much time there is; and nobody is told to wait for what would not fit."""
    fingerprint, most = make_fingerprint(shape=(300, 300, 300)), 2 * 64**3

    def measure(plan: Plan) -> float:
        return cost(plan) if math.prod(plan.patch_size) * plan.batch_size <= most else math.inf

    fitted = fit_effort(fingerprint, make_task(), 1e9, measure, largest=CPU)
    assert fitted.effort.voxels == most
    assert fitted.seconds_per_step == pytest.approx(cost(build_plan(fingerprint, make_task(), fitted.effort)))
    assert fitted.reason.endswith(
        "; more time buys more steps of the same, as the memory here does not hold 2 patches of 64x64x80 voxels and 16 channels"
    )
    short = fit_effort(fingerprint, make_task(), 1.0, measure, largest=CPU)
    assert (short.effort.voxels, short.effort.features) == (2 * 32**3, 16)


def test_a_memory_that_holds_nothing_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"does not hold .* smallest plan \(2 patches of 32x32x32 voxels and 16 channels\)"
    ):
        fit_effort(make_fingerprint(shape=(99, 99, 99)), make_task(), 1e9, lambda plan: math.inf, largest=CPU)


def test_what_is_timed_and_described_is_what_is_trained() -> None:
    timed: list[Plan] = []

    def finish(plan: Plan) -> Plan:
        return plan.model_copy(update={"network": plan.network.model_copy(update={"architecture": "vnet"})})

    def measure(plan: Plan) -> float:
        timed.append(plan)
        return 0.4

    fitted = fit_effort(make_fingerprint(), make_task(), 600.0, measure, largest=CPU, finish=finish)
    assert {plan.network.architecture for plan in timed} == {"vnet"}
    assert (
        "2 patches of 40x56x40 voxels and 16 channels of V-Net, 64 below full resolution; from 13 min on"
        in fitted.reason
    )
    assert fitted.reason.endswith("and 32 channels of V-Net would be taken")
