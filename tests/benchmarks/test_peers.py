"""What the benchmarks share, as far as it needs no other tool; they measure nothing when medunet and its peer differ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_recipe import describe_difference
from peers.environment import nnunet_environment, nnunet_workers
from peers.made_up import MADE_UP_TASK, make_cases, make_fingerprint, store_cases, write_dataset
from peers.plain import build_plain_step, compute_plain_loss
from peers.plans import change_plan, take_over_plan

from medunet.networks import build_network
from medunet.planning import Effort, MemoryTarget, Plan, build_plan
from medunet.tasks import read_case, read_dataset
from medunet.training.losses import build_loss
from medunet.training.sampling import PatchSampler

PLANS: dict[str, Any] = {
    "transpose_forward": [2, 0, 1],  # of axes (K, J, I): R, S, A
    "configurations": {
        "3d_fullres": {
            "batch_size": 99,
            "patch_size": [1, 1, 1],
            "spacing": [3.0, 1.0, 1.0],
            "architecture": {"arch_kwargs": {"n_stages": 9, "conv_bias": True}},
        }
    },
}


def make_plan() -> Plan:
    return build_plan(make_fingerprint((40, 24, 32), num_cases=8), MADE_UP_TASK, Effort(voxels=2 * 24**3, features=4))


def test_nnunet_gets_patch_and_network_along_its_own_axes() -> None:
    plan = change_plan(make_plan(), patch_size=(32, 16, 24), batch_size=3, features=8)
    strides = ((1, 1, 1), (2, 1, 2), (2, 2, 1))[: len(plan.network.strides)]
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"strides": strides})})

    configuration = take_over_plan(PLANS, plan)["configurations"]["3d_fullres"]

    assert configuration["patch_size"] == [32, 24, 16]
    assert configuration["batch_size"] == 3
    network = configuration["architecture"]["arch_kwargs"]
    assert network["strides"] == [[1, 1, 1], [2, 2, 1], [2, 1, 2]]
    assert network["features_per_stage"] == [8, 16, 32]
    assert network["n_stages"] == 3
    assert network["conv_bias"] is True
    assert configuration["spacing"] == [3.0, 1.0, 1.0]
    assert PLANS["configurations"]["3d_fullres"]["batch_size"] == 99


def test_a_patch_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="is not divided by"):
        change_plan(make_plan(), patch_size=(33, 16, 24))


def test_the_plan_of_the_issue_for_the_hippocampus() -> None:
    plan = build_plan(make_fingerprint((36, 50, 35), num_cases=200), MADE_UP_TASK, MemoryTarget())

    assert plan.patch_size == (40, 56, 40)
    assert plan.network.features[0] == 32


def test_made_up_cases_are_the_same_as_files_and_in_memory(tmp_path: Path) -> None:
    cases = make_cases(2, (20, 24, 16))
    write_dataset(cases, tmp_path / "data")
    stored = store_cases(cases, tmp_path)

    for case, in_memory, from_files in zip(cases, stored, read_dataset(tmp_path / "data").cases, strict=True):
        image, codes = in_memory.read_box((slice(0, 20), slice(0, 24), slice(0, 16)))
        read, labels = read_case(from_files, MADE_UP_TASK)
        np.testing.assert_allclose(image.numpy(), case.image, atol=1e-3)
        np.testing.assert_allclose((read.array - 1000) / 200, case.image, atol=1e-3)
        assert np.array_equal(codes.numpy(), case.codes)
        assert np.array_equal(labels.array[0], case.codes)
        assert set(np.unique(case.codes)) == {0, 1, 2}


def test_the_plain_loss_is_that_of_medunet() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = [torch.randn((2, 3, size, size, size), generator=generator) for size in (8, 4)]
    codes = torch.randint(0, 3, (2, 8, 8, 8), generator=generator).to(torch.uint8)
    targets = [
        codes.long(),
        torch.nn.functional.interpolate(codes[:, None], scale_factor=0.5, mode="nearest-exact")[:, 0].long(),
    ]

    plain = compute_plain_loss(scales, targets)

    expected = build_loss("dice-ce", MADE_UP_TASK, torch.device("cpu"))(scales, codes).total
    assert float(expected) == pytest.approx(float(plain) + 1, abs=1e-4)  # 1 - Dice there, -Dice here


def test_plain_training_learns_its_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = make_plan()
    stored = store_cases(make_cases(1, (40, 24, 32)), tmp_path)
    sampler = PatchSampler(stored, MADE_UP_TASK, plan.patch_size, 1, plan.spacing, seed=0, mode="none", num_workers=0)
    batch = sampler.draw(0)
    step = build_plain_step(build_network(plan.network), plan, batch, torch.device("cpu"), "32-true")

    losses = [float(step()) for _ in range(6)]

    assert losses[-1] < losses[0] - 0.1


def test_the_environment_is_as_before_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "mine")
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.delenv("nnUNet_compile", raising=False)
    names = ("nnUNet_raw", "nnUNet_compile", "nnUNet_n_proc_DA")

    with nnunet_environment(tmp_path, compiles=False), nnunet_workers(0):
        within = [os.environ.get(name) for name in names]

    assert within == [str(tmp_path / "raw"), "False", "0"]
    assert [os.environ.get(name) for name in names] == ["mine", None, None]


def test_a_difference_stands_beside_its_noise() -> None:
    text = describe_difference([0.80, 0.82, 0.84], [0.79, 0.80, 0.81])

    assert "medunet 0.8200 +- 0.0200, nnU-Net 0.8000 +- 0.0100" in text
    assert "difference +0.0200, standard error 0.0129" in text
    assert "not known from one seed" in describe_difference([0.8], [0.7])
