"""The benchmarks of training run in small, without nnU-Net, and print what they are meant to compare."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import bench_accuracy_budget
import bench_networks
import bench_training_data
import bench_training_step
import check_training_memory
import pytest
import torch
from peers.made_up import MADE_UP_TASK, MadeUpCase, make_cases, make_fingerprint, store_cases, write_dataset
from peers.monai_data import build_monai_draw

from medunet.augmentation import AugmentationPolicy, build_policy
from medunet.models import get_runs_folder
from medunet.networks import ARCHITECTURES
from medunet.networks.choose import count_plan_gflop
from medunet.planning import Effort, build_plan
from medunet.tasks import load_task, read_dataset
from medunet.training import experiment
from medunet.training.memory import limit_cases_gib

TASK = """
name: made-up
title: Blobs in noise
modality: MR
channels: [t1]
labels: {large: 1, small: 2}
intensity: zscore
"""
SHAPE = (24, 28, 20)
EFFORT = Effort(voxels=2 * 16**3, features=4)


@pytest.fixture(autouse=True)
def without_nnunet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In its environment too; and networks that nobody waits for."""
    for module in (bench_training_data, bench_training_step):
        monkeypatch.setattr(module, "has_nnunet", lambda: False)
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", EFFORT)
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset, and ``task.yaml`` beside it."""
    write_dataset(make_cases(5, SHAPE), tmp_path / "data")
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path / "data"


def read_rates(text: str) -> dict[str, float]:
    return {name: float(rate) for name, rate in re.findall(r"^ +(.+?) +([\d.]+) (?:patches|iterations)/s", text, re.M)}


def test_every_way_to_make_patches_is_measured(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_training_data, "write_dataset", lambda cases, folder: None)
    monkeypatch.setattr(bench_training_data, "read_dataset", lambda folder: read_dataset(data))
    bench_training_data.main(["--edge", "8", "--patch", "16", "--seconds", "0.01"])
    text = capsys.readouterr().out
    rates = read_rates(text)
    assert list(rates) == [
        "medunet, nnU-Net's list",
        "the same from files",
        "medunet, its policy",
        "MONAI + TorchIO",
        "medunet, by peers",
    ]
    (ratio,) = re.findall(r"medunet / MONAI \+ TorchIO: ([\d.]+)", text)
    assert float(ratio) == pytest.approx(rates["medunet, its policy"] / rates["MONAI + TorchIO"], abs=0.02)


def test_medunets_own_optimizer_stands_beside_sgd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench_training_step.SETTINGS, "small", (SHAPE, EFFORT))
    monkeypatch.setattr(bench_training_step, "NUM_CASES", 2)
    made: list[str] = []
    build = bench_training_step.build_engine

    def build_engine(plan: Any, optimizer: Any, *arguments: Any, **options: Any) -> Any:
        made.append(optimizer.name)
        return build(plan, optimizer, *arguments, **options)

    monkeypatch.setattr(bench_training_step, "build_engine", build_engine)
    options = ["--settings", "small", "--rounds", "1", "--iterations", "1", "--warm-up", "1", "--skip-defaults"]
    bench_training_step.main(options)
    text = capsys.readouterr().out
    rates = read_rates(text)
    assert list(rates) == ["plain PyTorch, one batch", "medunet, step", "medunet", "medunet, Muon"]
    assert made == ["sgd", "muon"]
    (ratio,) = re.findall(r"with Muon / with SGD: ([\d.]+)", text)
    assert float(ratio) == pytest.approx(rates["medunet, Muon"] / rates["medunet"], abs=0.02)


def test_the_dice_of_a_budget_is_written_and_drawn(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, task = data.parent / "accuracy", str(data.parent / "task.yaml")
    train = functools.cache(bench_accuracy_budget.train)
    budgets: list[str] = []

    def train_once(*arguments: Any, budget: str, output: Path, **options: Any) -> Any:
        budgets.append(budget)
        return train(*arguments, budget="1it", output=data.parent / "run", **options)

    monkeypatch.setattr(bench_accuracy_budget, "train", train_once)
    options = ["--data", str(data), "--task", task, "--tools", "medunet", "--minutes", "0.5,2", "--device", "cpu"]
    bench_accuracy_budget.main([*options, "-o", str(output)])
    assert budgets == ["30s", "120s"]
    rows = list(csv.DictReader((output / "dice.csv").read_text().splitlines()))
    assert [(row["tool"], row["budget_min"], row["iterations"]) for row in rows] == [
        ("medunet", "0.5", "1"),
        ("medunet", "2", "1"),
    ]
    for row in rows:
        dice = [float(row[name]) for name in ("large", "small")]
        assert float(row["mean_dice"]) == pytest.approx(sum(dice) / 2, abs=1e-3)
    assert (output / "dice.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("mean_dice") == 2


def test_every_network_has_a_row_at_the_price_of_the_planned_one(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: dict[str, dict[str, Any]] = {}
    prices: list[float] = []
    plan_training = bench_networks.plan_training

    def plan(*arguments: Any) -> Any:
        planned = plan_training(*arguments)
        prices.append(count_plan_gflop(planned.plan))
        return planned

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        """In this process, for what the child imports takes longer than what it does."""
        monkeypatch.setattr(sys, "argv", command[1:])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            bench_networks.main()
        rows[command[-1]] = json.loads(printed.getvalue().splitlines()[-1])
        return CompletedProcess(command, 0, printed.getvalue(), "")

    monkeypatch.setattr(bench_networks, "plan_training", plan)
    monkeypatch.setattr(bench_networks.subprocess, "run", run)
    options = ["--data", str(data), "--task", str(data.parent / "task.yaml"), "--device", "cpu"]
    networks = ["unet", "unet-2015", "vnet"]
    script = ["bench_networks.py", "--configuration", "2d", "--iterations", "1"]
    monkeypatch.setattr(sys, "argv", [*script, *options, "--networks", *networks])
    bench_networks.main()
    text = capsys.readouterr().out
    (price,) = set(prices)
    assert f"as fits into {price:.2f} GFLOP per patch, what the planned U-Net costs" in text
    assert list(rows) == networks
    assert rows["unet"]["gflop"] == pytest.approx(price)
    for name, row in rows.items():
        config = ARCHITECTURES[name].config
        assert row["gflop"] <= price * (1 + 1e-9) or (config is not None and row["width"] == config.width_step)
        assert row["steps"] == 1
        assert 0 <= row["dice"] <= 1
        assert min(row["seconds_per_step"], row["seconds_per_pass"], row["gib"], row["parameters"]) > 0
        (line,) = [line.split() for line in text.splitlines() if line.startswith(f"{name} ")]
        assert line[1:6] == [
            f"{row['dice']:.3f}",
            str(row["width"]),
            row["patch"],
            f"{row['parameters']:,}",
            f"{row['gflop']:.2f}",
        ]


def test_memory_is_measured_with_cases_on_disk_and_with_the_defaults(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    folds: list[object] = []

    def prepare(task: str, folder: str, *, fold: object, **_: object) -> None:
        """What a training does that the ways of the script differ in."""
        store = get_runs_folder() / "preprocessed" / "made-up"
        task_of_cases = load_task(task)
        plan = build_plan(make_fingerprint(SHAPE, num_cases=5), task_of_cases, EFFORT)
        limit = experiment.limit_cases_gib(plan, "32-true", torch.device("cpu"), None)
        cases = read_dataset(Path(folder)).cases
        stored = experiment.prepare_cases(cases, task_of_cases, plan, store, memory_gib=limit)
        held.extend(case.is_in_memory for case in stored)
        folds.append(fold)

    monkeypatch.setattr("medunet.training.train", prepare)
    monkeypatch.setattr(experiment, "limit_cases_gib", limit_cases_gib)  # which the script replaces
    for name in ("defaults", "fold 0", "on disk"):
        way = asdict(check_training_memory.WAYS[name])
        memory = check_training_memory.measure(str(data), str(data.parent / "task.yaml"), "1it", way)
        assert memory.peak >= memory.imported > 100
        assert 5 * 3 * 24 * 28 * 20 / 2**20 < memory.store < 1  # int16 and codes of five cases, in blocks
    assert held == [True] * 10 + [False] * 5
    assert folds == ["all", 0, "all"]


def test_links_stand_for_many_cases(data: Path, tmp_path: Path) -> None:
    for new, old in (("imagesTr", "images"), ("labelsTr", "labels")):
        (data / old).rename(data / new)
    check_training_memory.link_cases(data, tmp_path / "many", 12)
    images = sorted((tmp_path / "many" / "images").iterdir())
    labels = sorted((tmp_path / "many" / "labels").iterdir())
    assert len(images) == len(labels) == 12
    assert [path.resolve().name for path in images] == [f"case_{number % 5}.nii.gz" for number in range(12)]
    assert [path.resolve().name for path in labels] == [path.resolve().name for path in images]


# ---- the pipeline of MONAI and TorchIO ---------------------------------------------------------------------------------


@pytest.fixture
def draw_with(tmp_path: Path) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """One batch of two patches of two cases, under a policy."""

    def call(policy: AugmentationPolicy, cases: list[MadeUpCase] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        stored = store_cases(cases or make_cases(2, SHAPE), tmp_path)
        return build_monai_draw(stored, policy, (16, 20, 12), 2, (1.0, 1.0, 1.5))()

    return call


def list_probabilities() -> list[str]:
    names = [field.name for field in fields(AugmentationPolicy) if field.name.endswith("_probability")]
    return [name for name in names if name != "channel_probability"]  # MONAI's transforms change all channels alike


NEVER = replace(build_policy(MADE_UP_TASK.modality), **dict.fromkeys(list_probabilities(), 0.0))


@pytest.mark.parametrize("name", list_probabilities())
def test_every_kind_of_change_is_in_the_pipeline(
    draw_with: Callable[..., tuple[torch.Tensor, torch.Tensor]], name: str
) -> None:
    plain, plain_labels = draw_with(NEVER)
    image, labels = draw_with(replace(NEVER, **{name: 1.0}))
    assert image.shape == (2, 1, 16, 20, 12)
    assert labels.shape == (2, 1, 16, 20, 12)
    assert set(labels.unique().tolist()) <= {0, 1, 2}
    assert image.isfinite().all()
    assert not torch.allclose(image, plain, atol=1e-3)
    is_spatial = name in ("rotation_probability", "scaling_probability", "elastic_probability", "mirror_probability")
    assert torch.equal(labels, plain_labels) != is_spatial
