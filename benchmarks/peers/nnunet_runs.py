"""Whole trainings by nnU-Net: its dataset is prepared once, then each run trains from a seed and validates."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from medunet.evaluation import Evaluation
from medunet.planning import Plan
from medunet.tasks import Case, Task
from peers.environment import nnunet_environment

Progress = Callable[[int, float], float]
"""From finished iterations and seconds to the share of a budget that is used."""
Record = Callable[[int, float, Evaluation], None]
"""Told iterations, seconds and scores."""


class RunNnunet(Protocol):
    """What `open_nnunet` gives."""

    def __call__(self, seed: int, compute_progress: Progress, record: Record, *, looks: Sequence[float] = ()) -> None:
        """Train from a seed until the progress is 1; validate and record at these shares of the budget and at the end."""


@contextmanager
def open_nnunet(
    training: Sequence[Case], validation: Sequence[Case], task: Task, device: torch.device, *, plan: Plan | None = None
) -> Iterator[RunNnunet]:
    """Prepare a dataset in a temporary folder and train on it as often as wanted.

    Args:
        training: Cases.
        validation: Cases.
        task: Of the cases.
        device: That trains and predicts.
        plan: Whose network, patch and batch are taken; None lets nnU-Net plan.
    """
    from peers.nnunet_data import prepare_nnunet_dataset
    from peers.nnunet_trainer import build_trainer, train_nnunet, validate_nnunet

    with tempfile.TemporaryDirectory() as folder, nnunet_environment(Path(folder)):
        dataset = prepare_nnunet_dataset(training, validation, task, plan=plan)

        def run(seed: int, compute_progress: Progress, record: Record, *, looks: Sequence[float] = ()) -> None:
            trainer = build_trainer(dataset, device, seed=seed)

            def look(iteration: int, seconds: float) -> None:
                record(iteration, seconds, validate_nnunet(trainer, validation, task, Path(folder) / "masks"))

            iterations, seconds = train_nnunet(trainer, compute_progress, looks=looks, look=look)
            look(iterations, seconds)

        yield run
