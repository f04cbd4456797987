"""The state that `medunet.runs` sees, through the life of a real training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medunet.runs import Run, read_run
from medunet.training import Observer, Step, TrainingResult
from medunet.training.loop import Trainer


class Look(Observer):
    """Reads the run while it is trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[Run] = []

    def on_step(self, step: Step) -> None:
        self.found.append(read_run(self.folder))


def fail_at(monkeypatch: pytest.MonkeyPatch, iteration: int, error: BaseException) -> None:
    step = Trainer._step

    def fail(self: Trainer, *arguments: Any) -> Any:
        if self.state.iteration == iteration:
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", fail)


def test_a_training_runs_is_interrupted_fails_and_ends(
    train_tiny: Callable[..., TrainingResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    folder = tmp_path / "run"
    look = Look(folder)
    with monkeypatch.context() as patch:
        fail_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(folder, observer=look, seed=7)
    assert {run.state for run in look.found} == {"running"}
    assert [run.num_iterations for run in look.found] == [0, 1]  # rows of the log, one behind
    run = read_run(folder)
    assert (run.state, run.task, run.fold, run.budget, run.num_iterations) == ("interrupted", "tiny-mr", 0, "4it", 2)
    assert run.mean_dice is None

    with monkeypatch.context() as patch:
        fail_at(patch, 3, RuntimeError("the disk broke"))
        with pytest.raises(RuntimeError):
            train_tiny(folder, resume=True)
    run = read_run(folder)
    assert (run.state, run.reason) == ("failed", "the disk broke")

    result = train_tiny(folder, resume=True)
    run = read_run(folder)
    assert (run.state, run.reason, run.num_iterations, run.num_networks) == ("finished", None, 4, 1)
    assert result.evaluation is not None
    assert run.mean_dice == result.evaluation.mean_dice
    assert (run.device or "").startswith("cpu")
