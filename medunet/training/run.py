"""`train`: from a task and a dataset to a model folder. It builds; `medunet.training.loop` loops."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as get_version
from pathlib import Path

import torch

import medunet
from medunet.device import choose_device, choose_precision
from medunet.errors import InputError, OutputError
from medunet.evaluation import Evaluation
from medunet.io import check_output
from medunet.models import get_runs_folder
from medunet.models.folder import TrainingRecord, write_description, write_results, write_weights
from medunet.models.names import WEIGHTS
from medunet.phantoms import write_phantom_dataset
from medunet.planning import Configuration, Fingerprint, Plan, compute_fingerprint
from medunet.preprocessing import StoredCase, prepare_cases
from medunet.tasks import Case, Dataset, Task, load_task, parse_mapping, read_dataset, split_fold
from medunet.training.budget import parse_budget
from medunet.training.fit_plan import describe_plan, fit_plan
from medunet.training.folders import find_unfinished_run, name_run_folder, read_plan
from medunet.training.loop import LoopResult, Trainer
from medunet.training.progress import Observer
from medunet.training.sampling import AugmentationMode
from medunet.training.settings import TrainingSettings, take_over_settings, write_settings
from medunet.training.validation import summarize_validation, validate_cases

logger = logging.getLogger(__name__)

NUM_PHANTOMS = 24
_NUM_WATCHED = 4
"""Validation cases that are looked at while training; all are scored at the end."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What training leaves behind.

    Attributes:
        folder: The model folder.
        validation_cases: That were kept apart.
        evaluation: Scores of the validation cases on their own grids; None when trained on all cases.
        num_iterations: Optimiser steps, over all sessions.
        seconds: In the loop, over all sessions.
    """

    folder: Path
    validation_cases: tuple[Case, ...]
    evaluation: Evaluation | None
    num_iterations: int
    seconds: float


def train(
    task: str | Path,
    data: str | Path | None = None,
    *,
    mapping: Sequence[str] = (),
    output: str | Path | None = None,
    fold: int | None = 0,
    budget: str | None = None,
    configuration: Configuration = "3d",
    augmentation: AugmentationMode = "fast",
    device: str = "auto",
    seed: int = 0,
    deterministic: bool = False,
    resume: bool = False,
    observer: Observer | None = None,
) -> TrainingResult:
    """Train a network and validate it.

    Args:
        task: Built-in task or path of a YAML recipe.
        data: Dataset folder (see `medunet.tasks.read_dataset`); None makes the task's synthetic phantoms.
        mapping: For labels in DICOM SEG or RTSTRUCT: names that stand for a label, such as ``"CTV_p=prostate"``.
        output: The run folder, which becomes the model folder; None makes one in ``$MEDUNET_HOME`` or ``./runs``.
        fold: Cases kept for validation, 0 to 4; None trains on all.
        budget: ``"10min"``, ``"2h"``, ``"5000it"``; None takes the task's. The learning rate falls over exactly this.
        configuration: ``"3d"`` or ``"2d"``.
        augmentation: ``"fast"`` (plain torch), ``"torchio"`` (MONAI and TorchIO) or ``"none"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        seed: Of weights, patches and augmentation.
        deterministic: Same seed and device give the same weights.
        resume: Go on with ``output``, or with the newest unfinished run of the task.
        observer: Told what happens.

    Raises:
        InputError: If task, data, budget or device cannot be used.
        OutputError: If the run folder cannot be written, or holds a model already.
        TrainingError: If the loss is no longer finite.
        KeyboardInterrupt: On Ctrl-C, after the state and the weights so far were saved.
    """
    observer = observer or Observer()
    settings = TrainingSettings(
        task=str(Path(task).resolve() if Path(task).is_file() else task),
        data=None if data is None else str(Path(data).resolve()),  # so that --resume works from any folder
        mapping=tuple(mapping),
        fold=fold,
        budget=budget,
        configuration=configuration,
        augmentation=augmentation,
        seed=seed,
        is_deterministic=deterministic,
        device=device,
    )
    recipe = load_task(settings.task)
    if resume:
        folder = Path(output) if output else find_unfinished_run(recipe.name)
        settings = take_over_settings(folder, settings, recipe)
        recipe = load_task(settings.task)
    else:
        folder = Path(output) if output else name_run_folder(recipe.name)
    run = _prepare_run(folder, recipe, settings, observer, resumes=resume)
    result = run.trainer.fit(resumes=resume, on_save=run.save)
    return run.finish(result)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """All that belongs to one training."""

    folder: Path
    task: Task
    plan: Plan
    settings: TrainingSettings
    dataset: Dataset
    training_cases: tuple[Case, ...]
    validation_cases: tuple[Case, ...]
    trainer: Trainer
    budget: str
    observer: Observer

    def save(self, result: LoopResult) -> None:
        """Write the weights so far, so that an interrupted run is a model too."""
        write_weights(self.folder, result.weights, self._build_record(result))

    def finish(self, result: LoopResult) -> TrainingResult:
        """Write the model, validate it on the cases' own grids, and write what it scored."""
        self.save(result)
        evaluation = None
        if self.validation_cases:
            evaluation = validate_cases(
                self.trainer.network,
                self.validation_cases,
                self.task,
                self.plan,
                self.trainer.device,
                self.trainer.precision,
                self.observer,
            )
        metrics = summarize_validation(evaluation)
        write_results(self.folder, self.task, self.plan, self._build_record(result), metrics)
        return TrainingResult(
            folder=self.folder,
            validation_cases=self.validation_cases,
            evaluation=evaluation,
            num_iterations=result.iteration,
            seconds=result.seconds,
        )

    def _build_record(self, result: LoopResult) -> TrainingRecord:
        settings = dataclasses.asdict(self.settings)
        return TrainingRecord(
            medunet_version=medunet.__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            dataset=self.dataset.name,
            is_synthetic=self.dataset.is_synthetic,
            training_cases=tuple(case.case_id for case in self.training_cases),
            validation_cases=tuple(case.case_id for case in self.validation_cases),
            case_list_sha256=_hash_cases(self.training_cases, self.validation_cases),
            fold=self.settings.fold,
            budget=self.budget,
            num_iterations=result.iteration,
            seconds=round(result.seconds, 1),
            seed=self.settings.seed,
            is_deterministic=self.settings.is_deterministic,
            device=_describe_device(self.trainer.device),
            precision=self.trainer.precision,
            # Without paths: a model travels, and folders may be named after patients.
            settings={name: value for name, value in settings.items() if name not in ("task", "data")}
            | self.trainer.describe(),
            versions={name: get_version(name) for name in ("torch", "monai", "torchio", "numpy", "nibabel")}
            | {"python": platform.python_version()},
        )


def _prepare_run(folder: Path, task: Task, settings: TrainingSettings, observer: Observer, *, resumes: bool) -> _Run:
    budget_text = settings.budget or task.budget
    budget = parse_budget(budget_text)
    if settings.is_deterministic and budget.iterations is None:
        msg = f"--deterministic needs a budget in iterations, such as 2000it; '{budget_text}' depends on the clock."
        raise InputError(msg)
    device = choose_device(settings.device)
    if not resumes:
        if (folder / WEIGHTS).exists():
            msg = f"{folder} holds a model already; choose another --output, or go on with it by --resume."
            raise OutputError(msg)
        check_output(folder / WEIGHTS)  # a folder that cannot be written is noticed before any work
    dataset = _find_dataset(settings, task, observer)
    _warn_about_mismatch(dataset, task)
    training_cases, validation_cases = split_fold(dataset, settings.fold)
    observer.on_message(
        f"{dataset.name}: {len(training_cases)} training and {len(validation_cases)} validation cases ({dataset.layout})"
    )
    if resumes:
        plan = read_plan(folder)
    else:
        fingerprint = compute_fingerprint(
            dataset.cases,
            task,
            num_workers=_count_workers(),
            on_case=_count_cases("reading", len(dataset.cases), observer),
        )
        plan = fit_plan(fingerprint, task, budget, device, settings.configuration)
        _warn_about_absent_labels(fingerprint, dataset)
        # Nothing is written before the data have been read: a faulty dataset leaves no empty run behind.
        write_settings(folder, settings)
        write_description(folder, task, plan)
    for topic, reason in plan.reasons.items():
        logger.info("plan: %s: %s", topic, reason)
    observer.on_message(describe_plan(plan))
    trainer = Trainer(
        folder=folder,
        task=task,
        plan=plan,
        training_cases=_prepare(training_cases, task, plan, observer),
        validation_cases=_prepare(validation_cases[:_NUM_WATCHED], task, plan, observer),
        budget=budget,
        device=device,
        precision=choose_precision(device),
        seed=settings.seed,
        is_deterministic=settings.is_deterministic,
        augmentation=settings.augmentation,
        fingerprint=_hash_cases(training_cases, validation_cases) + plan.model_dump_json() + task.model_dump_json(),
        observer=observer,
    )
    return _Run(
        folder=folder,
        task=task,
        plan=plan,
        settings=settings,
        dataset=dataset,
        training_cases=training_cases,
        validation_cases=validation_cases,
        trainer=trainer,
        budget=budget_text,
        observer=observer,
    )


def _warn_about_mismatch(dataset: Dataset, task: Task) -> None:
    if dataset.modality is not None and dataset.modality != task.modality:
        logger.warning(
            "%s says that its images are %s; task '%s' is for %s. Is it the right task?",
            dataset.name,
            dataset.modality,
            task.name,
            task.modality,
        )


def _warn_about_absent_labels(fingerprint: Fingerprint, dataset: Dataset) -> None:
    absent = [name for name, share in fingerprint.label_frequencies.items() if share == 0]
    if absent:
        logger.warning(
            "No case of %s holds %s: the model cannot learn it. Is it the right task?", dataset.name, ", ".join(absent)
        )


def _prepare(cases: Sequence[Case], task: Task, plan: Plan, observer: Observer) -> list[StoredCase]:
    if not cases:
        return []
    return prepare_cases(
        cases,
        task,
        plan,
        get_runs_folder() / "preprocessed" / task.name,
        num_workers=_count_workers(),
        on_case=_count_cases("preprocessing", len(cases), observer),
    )


def _find_dataset(settings: TrainingSettings, task: Task, observer: Observer) -> Dataset:
    if settings.data is not None:
        return read_dataset(settings.data, mapping=parse_mapping(settings.mapping))
    if task.phantom is None:
        msg = f"Task '{task.name}' has no embedded data; name a dataset folder with --data."
        raise InputError(msg)
    folder = get_runs_folder() / "phantoms" / f"{task.phantom}-{NUM_PHANTOMS}"
    observer.on_message(
        f"No --data given: using {NUM_PHANTOMS} SYNTHETIC phantoms ({task.phantom}) in {folder}. "
        "A model that learns from them is not for clinical use."
    )
    count = _count_cases("making phantoms", NUM_PHANTOMS, observer)
    write_phantom_dataset(task.phantom, folder, num_cases=NUM_PHANTOMS, seed=0, on_case=count)
    return read_dataset(folder)


def _count_cases(stage: str, num_cases: int, observer: Observer) -> Callable[[str], None]:
    num_done = 0

    def count(case_id: str) -> None:
        nonlocal num_done
        num_done += 1
        observer.on_case(stage, case_id, num_done, num_cases)

    return count


def _count_workers() -> int:
    return min(8, os.cpu_count() or 1)


def _hash_cases(*groups: Sequence[Case]) -> str:
    ids = [[case.case_id for case in group] for group in groups]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
