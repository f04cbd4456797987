"""What the memory holds: plans of a time stay below it, by estimate on the CPU, by free memory and by trying on a GPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from made_up_fingerprints import make_fingerprint, make_task

from medunet.errors import InputError
from medunet.networks import build_network
from medunet.networks.cost import count_saved_bytes
from medunet.planning import CPU_EFFORT, Effort, MemoryTarget, Plan, build_plan, compute_topology
from medunet.planning.cost import count_feature_voxels
from medunet.training import Budget, TrainingSettings
from medunet.training.fit_plan import fit_plan
from medunet.training.memory import estimate_step_bytes, limit_cases_gib


def test_out_of_memory_while_timing_takes_the_last_plan_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up device: steps of at most so many voxels, each of which takes a millisecond."""

    def measure(plan: Plan, *_: Any) -> float:
        if math.prod(plan.patch_size) * plan.batch_size > 2 * 80**3:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
            raise torch.OutOfMemoryError(msg)
        return 0.001

    monkeypatch.setattr("medunet.training.fit_plan.measure_step_seconds", measure)
    plan = fit_large_plan()
    assert plan.patch_size == (80, 80, 80)
    assert "as the memory here does not hold 2 patches of 96x96x96 voxels" in plan.reasons["budget"]


def test_other_faults_of_a_step_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any) -> float:
        msg = "shapes do not fit"
        raise RuntimeError(msg)

    monkeypatch.setattr("medunet.training.fit_plan.measure_step_seconds", measure)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit_large_plan()


def test_on_the_cpu_no_step_is_tried_that_the_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 GiB where nothing is stated, less where less is free; time is no object."""
    tried: list[float] = []

    def measure(plan: Plan, *_: Any) -> float:
        tried.append(estimate_step_bytes(plan, "32-true"))
        return 1e-6

    monkeypatch.setattr("medunet.training.fit_plan.measure_step_seconds", measure)
    monkeypatch.setattr("medunet.training.memory.measure_free_memory", lambda: 64 * 2**30)
    usual = fit_large_plan()
    assert 4 * 2**30 < max(tried) < 6 * 2**30
    assert usual.network.features[0] == 16  # twice as wide would be twice as large
    tried.clear()
    assert fit_large_plan(memory_gb=16).network.features[0] == 32
    assert max(tried) < 16e9
    tried.clear()
    monkeypatch.setattr("medunet.training.memory.measure_free_memory", lambda: 2 * 2**30)
    small = fit_large_plan()
    assert max(tried) < 1.8 * 2**30
    assert math.prod(small.patch_size) < math.prod(usual.patch_size)
    monkeypatch.setattr("medunet.training.memory.measure_free_memory", lambda: 2**29)
    with pytest.raises(InputError, match="does not hold a training step of even the smallest plan"):
        fit_large_plan()


def test_a_small_gpu_gets_smaller_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [139e9]
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free[0], 139 * 10**9))
    monkeypatch.setattr("medunet.training.fit_plan.measure_step_seconds", lambda *_: 1e-6)
    voxels = []
    for free_gb in (139, 8.1, 4.0, 2.0):
        free[0] = free_gb * 1e9
        plan = fit_large_plan(device="cuda")
        voxels.append(math.prod(plan.patch_size) * plan.batch_size)
    assert voxels[0] == voxels[1] == 2 * 128**3
    assert voxels[2] <= 128**3
    assert voxels[3] <= 128**3 / 2


def fit_large_plan(*, device: str = "cpu", memory_gb: float | None = None) -> Plan:
    """For cases larger than any patch, and all the time in the world."""
    settings = TrainingSettings(task="x", configuration="3d", memory_gb=memory_gb)
    fingerprint, budget = make_fingerprint(shape=(300, 300, 300), num_cases=2), Budget(seconds=1e6)
    return fit_plan(fingerprint, make_task(), budget, torch.device(device), settings, "32-true")


def test_cases_in_memory_get_what_the_steps_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.memory.measure_free_memory", lambda: 64 * 2**30)
    cpu, small = torch.device("cpu"), build_plan(make_fingerprint(), make_task(), CPU_EFFORT)
    large = build_plan(make_fingerprint(shape=(300,) * 3), make_task(), Effort(voxels=2 * 96**3, features=16))
    assert limit_cases_gib(small, "32-true", torch.device("cuda"), None) == 4
    assert limit_cases_gib(small, "32-true", cpu, None) == 4
    left = limit_cases_gib(large, "32-true", cpu, None)
    assert left == pytest.approx(5.5 - estimate_step_bytes(large, "32-true") / 2**30)
    assert left < 4
    assert limit_cases_gib(large, "32-true", cpu, 1.0) == 0


def test_a_step_takes_more_with_more_voxels_channels_and_bits() -> None:
    def estimate(voxels: int, features: int, precision: Any = "32-true") -> float:
        effort = Effort(voxels=voxels, features=features, batch_size=2)
        return estimate_step_bytes(build_plan(make_fingerprint(shape=(99,) * 3), make_task(), effort), precision)

    assert 1.9 < estimate(2 * 64**3, 16) / estimate(2 * 48**3, 16) < 2.7  # 64^3 has 2.37 times the voxels, weights stay
    assert 1.9 < estimate(2 * 64**3, 32) / estimate(2 * 64**3, 16) < 2.5
    assert 0.5 < estimate(2 * 64**3, 16, "bf16-mixed") / estimate(2 * 64**3, 16) < 0.8


def test_a_pass_keeps_what_every_convolution_takes_and_gives() -> None:
    """Its result for the normalisation, and the activation for the next convolution; a batch of two keeps twice as much."""
    plan = build_plan(make_fingerprint(shape=(99,) * 3), make_task(), Effort(voxels=2 * 64**3, features=32))
    with torch.device("meta"):
        network = build_network(plan.network)
    one, two = (count_saved_bytes(network, 1, plan.patch_size, batch_size) for batch_size in (1, 2))
    assert two == 2 * one
    topology = compute_topology(plan.patch_size, plan.spacing)
    voxels = count_feature_voxels(plan.patch_size, topology, plan.network.features, MemoryTarget(), 3)
    assert (
        1.8 < one / (4 * voxels) < 2.2
    )  # transposed convolutions keep one of the two, where stages are joined there is a copy
