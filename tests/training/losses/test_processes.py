"""Two processes with two patches each learn what one process learns with four."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from made_up_patches import TASKS, make_codes, make_noise
from torch import Tensor, distributed

from medunet.training.losses import LossName, build_loss, sum_over_processes

SCRIPT = Path(__file__).with_name("two_processes.py")
SHARED = SCRIPT.parents[2]  # where made_up_patches.py lies


def run(num_processes: int, folder: Path) -> list[dict[str, Tensor]]:
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SHARED), str(SHARED.parent)])}
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), str(num_processes), folder], env=environment)
        for rank in range(num_processes)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * num_processes
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num_processes)]


def test_one_process_sums_nothing() -> None:
    values = torch.ones(3, requires_grad=True)
    assert sum_over_processes(values) is values


@pytest.mark.parametrize("kind", TASKS)
def test_a_twin_process_counts_like_the_same_patches_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starting one: a process with the same patches doubles every sum."""
    task = TASKS[kind]
    codes = make_codes(task)
    logits = make_noise(task, codes)
    loss = build_loss("dice-ce", task, torch.device("cpu"))
    both = loss([torch.cat([logits, logits.detach()])], torch.cat([codes, codes]))
    (expected,) = torch.autograd.grad(both.total, logits)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda values: values.mul_(2))
    one = loss([logits], codes)
    (gradient,) = torch.autograd.grad(one.total, logits)
    assert one.total.item() == pytest.approx(both.total.item(), rel=1e-6)
    assert one.soft_dice.item() == pytest.approx(both.soft_dice.item(), rel=1e-6)
    torch.testing.assert_close(gradient / 2, expected)  # averaged over two, as DistributedDataParallel does


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_twice_the_patches(tmp_path: Path) -> None:
    (alone,) = run(1, tmp_path / "one")
    first, second = run(2, tmp_path / "two")
    assert len(alone) == 2 * len(get_args(LossName))
    for name, expected in alone.items():
        torch.testing.assert_close(
            first[name], expected, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(first[name], second[name]), name
        assert expected[:-2].abs().max() > 1e-3, name
