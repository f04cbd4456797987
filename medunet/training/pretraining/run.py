"""`pretrain`: from scans without labels to a model folder that a training can begin with.

Everything but the objective is that of a training: the planner's U-Net, the store of preprocessed cases, patches, the loop
with its budget, states, log and signals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medunet.device import Precision, choose_device, choose_precision, count_workers
from medunet.io import write_json_atomic
from medunet.models import write_description, write_weights
from medunet.models.names import PRETRAINING, STATE_FOLDER
from medunet.models.pretraining import PretrainingRecord
from medunet.planning import Plan, compute_fingerprint
from medunet.runs.lock import RunLock
from medunet.tasks import Case, Dataset, Task, list_scans, split_fold
from medunet.training.budget import Budget
from medunet.training.distributed import World
from medunet.training.experiment import Experiment, count_cases
from medunet.training.fit_plan import describe_plan, fit_plans
from medunet.training.fold import build_record, build_trainer
from medunet.training.folders import check_unused, name_run_folder, read_plan
from medunet.training.loop import LoopResult, Trainer
from medunet.training.pretraining.body_masks import BODY_FOLDER, prepare_body_masks
from medunet.training.pretraining.masking import find_block
from medunet.training.pretraining.report import write_pretraining_page
from medunet.training.pretraining.restoring import Restoring
from medunet.training.pretraining.settings import (
    PretrainingSettings,
    build_pretraining_settings,
    read_pretraining_settings,
    write_pretraining_settings,
)
from medunet.training.pretraining.validation import RestoredPatches, restore_patches
from medunet.training.progress import Observer
from medunet.training.settings import TrainingSettings
from medunet.training.signals import StopSignals
from medunet.training.state import has_state


@dataclass(frozen=True, kw_only=True)
class PretrainingResult:
    """What pretraining leaves behind.

    Attributes:
        folder: The model folder, for ``medunet train --from``.
        record: What was learnt and how well.
        num_iterations: Optimiser steps, over all sessions.
        seconds: In the loop, over all sessions.
    """

    folder: Path
    record: PretrainingRecord
    num_iterations: int
    seconds: float


def pretrain(
    data: str | Path,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    **options: Any,
) -> PretrainingResult:
    """Let the planned U-Net learn to restore hidden parts of scans.

    Args:
        data: Folder of scans, or a labelled dataset whose labels are left alone; see `medunet.tasks.list_scans`.
        output: The run folder, which becomes the model folder; None makes one in ``$MEDUNET_HOME`` or ``./runs``.
        resume: Go on with ``output``.
        observer: Told what happens.
        **options: Everything else that can be decided, as in `PretrainingSettings`: ``task`` or ``modality``, ``budget``,
            ``fold``, ``hidden_share`` and so on.

    Raises:
        InputError: If task, data, budget, device or another option cannot be used.
        OutputError: If the run folder cannot be written, is being written by another run, or holds a model already.
        TrainingError: If the loss is no longer finite.
        TrainingStoppedError: On SIGTERM, SIGUSR1 or Ctrl-C, after the state and the weights so far were saved.
    """
    settings = build_pretraining_settings(data, options)
    folder = name_run_folder(settings.load_task().name) if output is None else Path(output)
    with RunLock(folder):
        if resume:
            settings = read_pretraining_settings(folder)
        else:
            check_unused(folder)
        return _pretrain_in(folder, settings, observer or Observer(), is_begun=resume)


def _pretrain_in(
    folder: Path, settings: PretrainingSettings, observer: Observer, *, is_begun: bool
) -> PretrainingResult:
    experiment, num_left_out = _prepare(folder, settings, observer, is_begun=is_begun)
    fold = None if settings.fold == "all" else settings.fold
    training, kept_apart = split_fold(experiment.dataset, fold)
    observer.on_message(
        f"{experiment.dataset.name}: {len(training)} scans to learn from, {len(kept_apart)} kept apart "
        f"({experiment.dataset.layout})"
    )
    objective = Restoring(
        block=find_block(experiment.plan.network),
        hidden_share=settings.hidden_share,
        distance=settings.distance,
        seed=settings.seed,
    )
    record = PretrainingRecord(
        task=None if settings.task is None else experiment.task.name.removeprefix("pretraining-"),
        block=objective.block,
        hidden_share=settings.hidden_share,
        distance=settings.distance,
        num_left_out=num_left_out,
    )
    trainer = build_trainer(experiment, folder, training, (), objective=objective)

    def save(result: LoopResult) -> None:
        # First: weights without it would pass for a model that segments.
        write_json_atomic(folder / PRETRAINING, record.model_dump(mode="json"))
        write_weights(folder, result.weights, build_record(experiment, trainer, result, fold, training, kept_apart))

    with experiment.signals:
        result = trainer.fit(resumes=is_begun and has_state(folder), on_save=save)
    return _finish(experiment, folder, trainer, objective, record, result, kept_apart)


def _prepare(
    folder: Path, settings: PretrainingSettings, observer: Observer, *, is_begun: bool
) -> tuple[Experiment, int]:
    """Find the scans and fit a plan to them and the budget; and how many scans cannot be used."""
    task = settings.load_task()
    shared = settings.build_training_settings(task.name)
    budget = shared.resolve_budget(task)
    device = choose_device(settings.device)
    scans = list_scans(settings.data)
    dataset, left_out = prepare_body_masks(
        scans,
        task,
        folder / STATE_FOLDER / BODY_FOLDER,
        num_workers=count_workers(),
        on_scan=count_cases("finding the body", len(scans.scans), observer),
    )
    if settings.fold != "all":
        split_fold(dataset, settings.fold)  # a fold that does not exist shall not leave a plan behind
    precision = choose_precision(device, settings.precision)
    if is_begun:
        plan = read_plan(folder)
    else:
        plan = _make_plan(dataset, task, shared, observer, budget=budget, device=device, precision=precision)
        write_description(folder, task, plan)
        write_pretraining_settings(folder, settings)
    observer.on_message(describe_plan(plan))
    experiment = Experiment(
        settings=shared,
        task=task,
        dataset=dataset,
        splits=None,
        plan=plan,
        low_plan=None,
        locator_plan=None,
        source=None,
        budget=budget,
        device=device,
        precision=precision,
        world=World(),
        observer=observer,
        signals=StopSignals(),
    )
    return experiment, len(left_out)


def _make_plan(
    dataset: Dataset,
    task: Task,
    settings: TrainingSettings,
    observer: Observer,
    *,
    budget: Budget,
    device: torch.device,
    precision: Precision,
) -> Plan:
    """The plan of a training on these scans, but for its outputs: the channels of the image."""
    on_case = count_cases("reading", len(dataset.cases), observer)
    fingerprint = compute_fingerprint(dataset.cases, task, num_workers=count_workers(), on_case=on_case)
    plan = fit_plans(fingerprint, task, budget, device, settings, precision).main
    if plan.configuration == "cascade":  # the rule's answer to a full budget; its first stage would need labels
        settings = replace(settings, configuration="3d")
        plan = fit_plans(fingerprint, task, budget, device, settings, precision).main
    network = plan.network.model_copy(update={"out_channels": len(task.channels)})
    return plan.model_copy(update={"network": network})


def _finish(
    experiment: Experiment,
    folder: Path,
    trainer: Trainer,
    objective: Restoring,
    record: PretrainingRecord,
    result: LoopResult,
    kept_apart: tuple[Case, ...],
) -> PretrainingResult:
    """Look at scans that the network has not seen, and write what was found out."""
    restored: RestoredPatches | None = None
    if kept_apart:
        restored = restore_patches(
            trainer.network.eval(),
            experiment.open_cases(kept_apart),
            experiment.task,
            experiment.plan,
            objective,
            experiment.device,
        )
        record = record.model_copy(update={"score": restored.score})
        write_json_atomic(folder / PRETRAINING, record.model_dump(mode="json"))
    write_pretraining_page(folder, experiment.task, experiment.plan, record, restored)
    return PretrainingResult(folder=folder, record=record, num_iterations=result.iteration, seconds=result.seconds)
