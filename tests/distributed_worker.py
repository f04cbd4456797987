"""The other process of `tests/training/test_distributed.py`; it does what the first one does.

It stands for `medunet.training.worker` and calls a function of this module instead of `train`.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_training import MUON, SGD, build_tiny_cases, build_tiny_identity, build_tiny_plan, build_tiny_task

from medunet.errors import TrainingError, TrainingStoppedError
from medunet.planning.plan import OptimizerPlan
from medunet.training import Budget, Observer
from medunet.training.distributed import World
from medunet.training.launch import open_world
from medunet.training.loop import LoopResult, Trainer
from medunet.training.losses import Loss
from medunet.training.sampling import Batch
from medunet.training.worker import run_worker


def build_trainer(
    folder: Path,
    world: World | None,
    *,
    batch_size: int,
    num_iterations: int,
    optimizer: OptimizerPlan = SGD,
    **options: Any,
) -> Trainer:
    """float32, nothing random but patches and augmentation, momentum and a running mean of the weights."""
    given: dict[str, Any] = {
        "augmentation": "fast",
        "observer": Observer(),
        "precision": "32-true",
        "budget": Budget(iterations=num_iterations),
    }
    return Trainer(
        folder=folder,
        task=build_tiny_task(),
        plan=build_tiny_plan(optimizer, batch_size=batch_size),
        training_cases=build_tiny_cases(),
        validation_cases=build_tiny_cases(1),
        device=torch.device("cpu"),
        seed=4,
        is_deterministic=True,
        identity=build_tiny_identity(),
        world=world,
        **(given | options),
    )


def fit(trainer: Trainer, *, resumes: bool = False) -> LoopResult:
    trainer.folder.mkdir(exist_ok=True, parents=True)
    return trainer.fit(resumes=resumes, on_save=lambda _: None)


def stop_after(trainer: Trainer, num_iterations: int) -> None:
    trainer.should_stop = lambda: "SIGTERM" if trainer.state.iteration == num_iterations else None


def learn(folder: Path, world: World) -> dict[str, Any]:
    """Everything that ends well or in the same way for all, so that processes are started once only."""
    with world.in_turn():
        is_there = (folder / "preprocessed").exists()
        (folder / "preprocessed").touch()
    shared = world.share("from the first" if world.is_first else None)
    told = world.gather(f"{world.rank} {shared} {is_there}")
    unbroken = fit(build_trainer(folder / "unbroken", world, batch_size=2, num_iterations=6))
    muon = fit(build_trainer(folder / "muon", world, batch_size=2, num_iterations=3, optimizer=MUON))
    reason = stop_and_describe(folder / "broken", world)
    resumed = fit(build_trainer(folder / "broken", world, batch_size=2, num_iterations=6), resumes=True)
    fault = see_a_nan(folder / "nan", world)
    local_fault = see_a_nan(folder / "local nan", world, is_local=True, precision="16-mixed")
    return {
        "told": told,
        "unbroken": unbroken,
        "muon": muon,
        "resumed": resumed,
        "reasons": world.gather(reason),
        "fault": fault,
        "local faults": world.gather(local_fault),
    }


def stop_and_describe(folder: Path, world: World) -> str:
    """Only the last process is asked to stop, at iteration 3."""
    trainer = build_trainer(folder, world, batch_size=2, num_iterations=6)
    if world.rank == world.size - 1:
        trainer.should_stop = lambda: "SIGTERM" if trainer.state.iteration == 3 else None
    try:
        fit(trainer)
    except TrainingStoppedError as error:
        return f"{trainer.state.iteration} {error.reason}"
    return "not stopped"


def see_a_nan(folder: Path, world: World, *, is_local: bool = False, **options: Any) -> str:
    """A patch of the last process is not finite, in batch 2; or its loss alone is not, as an auxiliary one may be."""
    trainer = build_trainer(folder, world, batch_size=2, num_iterations=1000, **options)
    draw, objective = trainer.sampler.draw, trainer.engine.objective
    compute_loss = objective.loss  # type: ignore[attr-defined]
    losses = itertools.count()

    def spoil(*inputs: Any) -> Loss:
        loss: Loss = compute_loss(*inputs)
        return replace(loss, total=loss.total * float("nan")) if next(losses) == 2 else loss

    def draw_nan(iteration: int) -> Batch:
        batch = draw(iteration)
        if iteration == 2:
            batch.image.fill_(float("nan"))
        return batch

    if not world.is_first and is_local:
        trainer.engine.objective = replace(objective, loss=spoil)  # type: ignore[type-var]
    elif not world.is_first:
        trainer.sampler.draw = draw_nan  # type: ignore[method-assign]
    try:
        fit(trainer)
    except TrainingError as error:
        return str(error)
    return "not noticed"


def lose_a_process(folder: Path, world: World) -> None:
    """The last process fails in the middle of the training."""
    trainer = build_trainer(folder / "run", world, batch_size=2, num_iterations=1000)
    if not world.is_first:
        trainer.should_stop = lambda: str(1 // (3 - trainer.state.iteration)) and None
    fit(trainer)


def fail_before_training(folder: Path, world: World) -> None:
    """The last process fails while the first one waits for it."""
    if not world.is_first:
        msg = f"no room left in {folder.name}"
        raise OSError(msg)
    world.gather("waiting")


def be_killed(folder: Path, world: World) -> None:
    """The last process is killed, as a system without memory does it; it had something to say before."""
    if not world.is_first:
        sys.stderr.write("UserWarning: nothing to do with it\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    world.gather("waiting")


def exchange(folder: Path, world: World) -> list[str]:
    """What each process was told, and the largest of numbers that all of them know."""
    world.connect(torch.device("cpu"))
    (largest,) = world.agree([10.0 + world.rank])
    return world.gather(f"{world.rank} {world.local_rank} of {world.size}, largest {largest:g}")


def call(function: str, folder: str) -> None:
    with open_world({}) as world:
        globals()[function](Path(folder), world)


if __name__ == "__main__":
    run_worker(call)
