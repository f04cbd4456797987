"""What a budget means, the learning rate over it, and whether it is long enough to compile the network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_fingerprints import make_fingerprint, make_task
from tiny_training import ADAMW, SGD

from medunet.errors import InputError
from medunet.planning import CPU_EFFORT
from medunet.training import Budget, TrainingSettings, compilation, parse_budget
from medunet.training.compilation import Compilation, find_compiler, should_compile
from medunet.training.fit_plan import fit_plan
from medunet.training.schedule import compute_cosine_share, compute_learning_rate, compute_poly_share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Budget(seconds=90)),
        ("90sec", Budget(seconds=90)),
        ("10min", Budget(seconds=600)),
        ("10 min", Budget(seconds=600)),
        ("2m", Budget(seconds=120)),
        ("1.5h", Budget(seconds=5400)),
        (" 0.5h ", Budget(seconds=1800)),
        ("5000it", Budget(iterations=5000)),
        ("3.0it", Budget(iterations=3)),
        ("full\t9it", Budget(iterations=9, is_full=True)),
    ],
)
def test_budgets_are_read(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "min",
        "-5min",
        "0it",
        "0s",
        "2.5it",
        "1e3it",
        "ten min",
        "10 days",
        "nan h",
        "full full",
        "full full 9it",
    ],
)
def test_other_budgets_are_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"10min or 2h.*5000it"):
        parse_budget(text)


def test_progress_counts_what_the_budget_counts() -> None:
    assert Budget(iterations=200).compute_progress(50, 1e9) == 0.25
    assert Budget(iterations=200).compute_progress(500, 0) == 1
    assert Budget(seconds=100).compute_progress(10**9, 25) == 0.25
    assert Budget(seconds=100).compute_progress(0, 101) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_stated_memory_limits_the_patches_of_counted_iterations(device: str) -> None:
    def count_voxels(memory_gb: float | None) -> int:
        settings = TrainingSettings(task="x", memory_gb=memory_gb, configuration="3d")
        budget = Budget(iterations=1000)
        plan = fit_plan(make_fingerprint(), make_task(), budget, torch.device(device), settings, "32-true")
        return plan.batch_size * math.prod(plan.patch_size)

    voxels = [count_voxels(memory_gb) for memory_gb in (0.05, 0.5, None)]
    assert voxels[0] < voxels[1] <= voxels[2]
    assert voxels[0] <= 2 * 128**3 * 0.05 / 8
    assert count_voxels(80.0) == voxels[2]  # more memory is no reason for larger steps


@pytest.mark.parametrize(("iterations", "enough"), [(1000, False), (100_000, True)])
def test_counted_iterations_say_what_they_buy(iterations: int, enough: bool) -> None:
    fingerprint, budget = make_fingerprint(shape=(150, 160, 140), num_cases=40), Budget(iterations=iterations)
    settings = TrainingSettings(task="x", configuration="3d")
    plan = fit_plan(fingerprint, make_task(), budget, torch.device("cpu"), settings, "32-true")
    num_passes = iterations * plan.batch_size * math.prod(plan.patch_size) / (150 * 160 * 140 * 40)
    assert plan.batch_size * math.prod(plan.patch_size) <= CPU_EFFORT.voxels
    reason = plan.reasons["budget"]
    assert reason.startswith(f"{iterations:,} steps with 2 patches of ")
    assert f"show every voxel of the dataset {num_passes:.3g} times; nothing was timed" in reason
    assert ("20 times are wanted, which " not in reason) is enough
    if not enough:
        steps = int(reason.split("which ")[1].split(" ")[0].replace(",", ""))
        assert steps * num_passes / iterations == pytest.approx(20, rel=1e-3)


def test_patches_of_coarser_voxels_are_told_from_those_that_were_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.fit_plan.measure_step_seconds", lambda *_: 0.5)
    settings, cpu = TrainingSettings(task="x", configuration="3d"), torch.device("cpu")
    reasons = []
    for seconds in (60, 1e6):
        plan = fit_plan(make_fingerprint(), make_task(), Budget(seconds=seconds), cpu, settings, "32-true")
        patch = "x".join(map(str, plan.patch_size))
        assert f"{plan.batch_size} patches of {patch} voxels" in plan.reasons["budget"]
        reasons.append(plan.reasons["budget"])
    assert "; its coarser voxels make of the patches that were timed 2 patches of " in reasons[0]
    assert "coarser" not in reasons[1]


def test_augmentation_and_precision_say_why() -> None:
    def explain(**options: Any) -> dict[str, str]:
        settings = TrainingSettings(task="x", configuration="3d", **options)
        budget, cpu = Budget(iterations=9), torch.device("cpu")
        return fit_plan(make_fingerprint(), make_task(), budget, cpu, settings, "bf16-mixed").reasons

    assert (
        explain()["precision"] == "bf16-mixed: cpu multiplies bfloat16 natively, which takes half the time and memory"
    )
    assert explain(precision="bf16")["precision"] == "bf16-mixed, as asked for"
    assert explain(augmentation="none")["augmentation"] == "none is applied, as asked for"
    assert explain(augmentation="torchio")["augmentation"] == f"{explain()['augmentation']}; by TorchIO, as asked for"
    assert "U-Net's paper" in explain(augmentation="unet2015")["augmentation"]


def test_the_learning_rate_rises_once_then_falls_to_zero() -> None:
    rates = [compute_cosine_share(step / 1000) for step in range(1001)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.01)
    assert top == 20
    assert rates[top] == pytest.approx(1.0)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[510] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0)


@pytest.mark.parametrize("epoch", [0, 1, 250, 500, 999])
def test_poly_is_nnunets(epoch: int) -> None:
    """``initial_lr * (1 - epoch / 1000) ** 0.9`` of its ``PolyLRScheduler``, with 0.01."""
    assert compute_learning_rate(SGD, epoch / 1000) == pytest.approx(0.01 * (1 - epoch / 1000) ** 0.9)


def test_the_schedule_is_the_plans() -> None:
    assert compute_learning_rate(ADAMW, 0.51) == pytest.approx(ADAMW.learning_rate * 0.5)
    assert compute_learning_rate(SGD, 0.0) == SGD.learning_rate
    assert compute_poly_share(1.0) == 0


# ---- compiling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "budget", "compiles"),
    [
        ("auto", Budget(seconds=599), False),  # the minute would be more than a tenth
        ("auto", Budget(seconds=600), True),
        ("auto", Budget(iterations=2000), False),
        ("auto", Budget(iterations=2001), True),
        ("off", Budget(seconds=1e6), False),
        ("on", Budget(seconds=1), True),
    ],
)
def test_compiling_must_be_earned(
    monkeypatch: pytest.MonkeyPatch, choice: Compilation, budget: Budget, compiles: bool
) -> None:
    monkeypatch.setattr(compilation, "find_compiler", lambda _: "/usr/bin/g++")
    assert should_compile(choice, budget, torch.device("cpu")) is compiles
    assert not should_compile(choice, budget, torch.device("mps"))


def test_without_a_compiler_only_who_insists_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "find_compiler", lambda _: None)
    assert not should_compile("auto", Budget(seconds=1e6), torch.device("cpu"))
    with pytest.raises(InputError, match=r"--compile on needs a C\+\+ compiler.*--compile off"):
        should_compile("on", Budget(seconds=1e6), torch.device("cpu"))


def test_the_compiler_is_looked_for_where_torch_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    cpu = torch.device("cpu")
    assert find_compiler(cpu) is None
    for name in ("clang++", "g++", "my-compiler"):
        (tmp_path / name).touch(mode=0o755)
        if name != "my-compiler":
            assert find_compiler(cpu) == str(tmp_path / name)
    monkeypatch.setenv("CXX", "my-compiler")
    assert find_compiler(cpu) == str(tmp_path / "my-compiler")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert find_compiler(torch.device("cuda")) is None  # needs Triton too
