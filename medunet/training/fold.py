"""One training: cases kept apart, the loop, and all that is known about the model afterwards."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as get_version
from pathlib import Path
from typing import Any

import torch

import medunet
from medunet.device import count_workers
from medunet.evaluation import Evaluation
from medunet.inference.locating import Locator
from medunet.models import SpeedRecord
from medunet.models.folder import TrainingRecord, write_results, write_weights
from medunet.models.names import LOCATE
from medunet.networks import PatchNetwork, load_encoder_weights
from medunet.postprocessing import compute_quality_ranges
from medunet.preprocessing import StoredCase
from medunet.runs.documents import flatten_document
from medunet.tasks import Case, split_fold
from medunet.training.experiment import Experiment, count_cases
from medunet.training.fine_tune import load_matching_weights
from medunet.training.identity import RunIdentity
from medunet.training.instances import InstanceValidation, fit_instances
from medunet.training.loop import LoopResult, Trainer
from medunet.training.losses import LossName
from medunet.training.objective import Objective
from medunet.training.previous_stage import PreviousStage
from medunet.training.progress import TrainingStart
from medunet.training.quantizing import quantize_after_training
from medunet.training.report import draw_patches, write_report
from medunet.training.speed import measure_speeds
from medunet.training.validation import (
    NetworkSegmenter,
    Validation,
    fit_calibrations,
    list_dices,
    summarize_validation,
    validate_cases,
)

_PATHS = ("task", "data", "splits", "from_model", "encoder")
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
        data_wait: Share of the time in the loop that was spent waiting for patches; None for several trainings.
    """

    folder: Path
    validation_cases: tuple[Case, ...]
    evaluation: Evaluation | None
    num_iterations: int
    seconds: float
    data_wait: float | None


def train_fold(
    experiment: Experiment,
    folder: Path,
    fold: int | None,
    *,
    resumes: bool,
    masks: Path | None = None,
    previous: PreviousStage | None = None,
    locator: Locator | None = None,
) -> TrainingResult:
    """Train one network and validate it.

    Args:
        experiment: What is learnt, from what and how.
        folder: The run folder, which becomes the model folder; holds plan and task.
        fold: That validates; None trains on all cases.
        resumes: Whether to go on from the state in the folder.
        masks: Where masks of the validation cases stay; None keeps none.
        previous: Of a cascade, the stage whose labels the network sees beside the image.
        locator: What finds the structures before the network looks at them, once it is trained.
    """
    training_cases, validation_cases = split_fold(experiment.dataset, fold, experiment.splits)
    experiment.observer.on_message(
        f"{experiment.dataset.name}: {len(training_cases)} training and {len(validation_cases)} validation cases "
        f"({experiment.dataset.layout})"
    )
    trainer = build_trainer(experiment, folder, training_cases, validation_cases, previous=previous)
    experiment.observer.on_training(
        TrainingStart(
            folder=folder,
            resumes=resumes,
            parameters=_list_parameters(experiment, fold, trainer)
            | {"training_cases": len(training_cases), "validation_cases": len(validation_cases)},
            tags=_list_tags(experiment),
        )
    )
    if not resumes:
        for line in _load_first_weights(experiment, trainer.engine.network):
            experiment.observer.on_message(line)
    run = _Fold(
        experiment=experiment,
        folder=folder,
        fold=fold,
        training_cases=training_cases,
        validation_cases=validation_cases,
        trainer=trainer,
        previous=previous,
        locator=locator,
    )
    with experiment.signals:  # before and after it there is nothing to save, and Ctrl-C ends at once
        result = trainer.fit(resumes=resumes, on_save=run.save)
    return run.finish(result, masks)


def _load_first_weights(experiment: Experiment, network: PatchNetwork) -> list[str]:
    """Fill a fresh network with what was learnt elsewhere, if anything; what was taken over, in words."""
    if experiment.source is not None:
        return load_matching_weights(network, experiment.task, experiment.plan, experiment.source).describe()
    if experiment.encoder is not None:
        return load_encoder_weights(
            network,
            experiment.plan.network.architecture,
            experiment.encoder,
            num_image_channels=len(experiment.task.channels),
            inflation=experiment.settings.inflation,
        ).describe()
    return []


def build_trainer(
    experiment: Experiment,
    folder: Path,
    training_cases: Sequence[Case],
    validation_cases: Sequence[Case],
    *,
    previous: PreviousStage | None = None,
    objective: Objective | None = None,
) -> Trainer:
    """The loop over some cases, which are preprocessed first.

    Args:
        experiment: What is learnt, from what and how.
        folder: The run folder.
        training_cases: To learn from.
        validation_cases: Of which a few are looked at on the way.
        previous: Of a cascade, the stage whose labels the network sees beside the image.
        objective: What is learnt, where it is not to segment.
    """
    settings = experiment.settings
    groups = (training_cases, validation_cases[:_NUM_WATCHED])
    training, watched = (experiment.open_cases(cases) for cases in groups)
    if previous is not None:
        training, watched = (
            previous.add_labels(cases, stored) for cases, stored in zip(groups, (training, watched), strict=True)
        )
    loss = _choose_loss(experiment)
    identity = RunIdentity(
        medunet_version=medunet.__version__,
        case_checksums={case.case_id: _compute_checksum(case) for case in (*training, *watched)},
        training_cases=tuple(case.case_id for case in training_cases),
        validation_cases=tuple(case.case_id for case in validation_cases),
        plan=experiment.plan.model_dump(mode="json"),
        task=experiment.task.model_dump(mode="json"),
        loss=loss if objective is None else objective.name,
        seed=settings.seed,
        augmentation=settings.augmentation,
        world_size=experiment.world.size,
    )
    return Trainer(
        folder=folder,
        task=experiment.task,
        plan=experiment.plan,
        training_cases=training,
        validation_cases=watched,
        budget=experiment.budget,
        device=experiment.device,
        precision=experiment.precision,
        seed=settings.seed,
        is_deterministic=settings.deterministic,
        augmentation=settings.augmentation_mode,
        identity=identity,
        observer=experiment.observer,
        loss=loss,
        objective=objective,
        compilation=settings.compile,
        world=experiment.world,
        should_stop=experiment.signals.should_stop,
        groups=[case.group for case in training_cases],
        num_workers=settings.workers,
        save_seconds=settings.save_seconds,
    )


def _choose_loss(experiment: Experiment) -> LossName:
    """What the user asks for; else, where objects are to be told apart, the loss that weighs the gaps between them."""
    if experiment.settings.loss != "auto":
        return experiment.settings.loss
    return "boundary-ce" if experiment.task.has_instances else experiment.plan.loss


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """All that belongs to one training."""

    experiment: Experiment
    folder: Path
    fold: int | None
    training_cases: tuple[Case, ...]
    validation_cases: tuple[Case, ...]
    trainer: Trainer
    previous: PreviousStage | None
    locator: Locator | None

    def save(self, result: LoopResult) -> None:
        """Write the weights so far, so that an interrupted run is a model too."""
        write_weights(self.folder, result.weights, self._build_record(result))

    def finish(self, result: LoopResult, masks: Path | None) -> TrainingResult:
        """Validate on the cases' own grids, and write what was found out; in the first process."""
        validation = None
        if self.experiment.world.is_first:
            with tempfile.TemporaryDirectory(prefix="medunet-validation-") as temporary:
                masks = masks or Path(temporary)
                segmenter = self._build_segmenter()
                speed = self._measure_speeds(segmenter, masks, result.seconds)
                validation = self._validate(segmenter, masks, speed)
                instances = self._fit_instances(segmenter, speed)
                self._write(result, validation, masks, speed, instances)
                self._quantize(result.seconds)
            self.experiment.observer.on_model(self.folder)
        return TrainingResult(
            folder=self.folder,
            validation_cases=self.validation_cases,
            evaluation=validation,
            num_iterations=result.iteration,
            seconds=result.seconds,
            data_wait=result.data_wait,
        )

    def _build_segmenter(self) -> NetworkSegmenter:
        # Laid out in memory as after loading: in half precision another layout rounds otherwise.
        network = self.trainer.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return NetworkSegmenter(
            network=network.eval(),
            task=self.experiment.task,
            plan=self.experiment.plan,
            device=self.experiment.device,
            precision=self.experiment.precision,
            add_channels=None if self.previous is None else self.previous.add_channels,
            locator=self.locator,
        )

    def _measure_speeds(self, segmenter: NetworkSegmenter, masks: Path, training_seconds: float) -> SpeedRecord | None:
        if not self.validation_cases:
            return None
        observer = self.experiment.observer
        return measure_speeds(segmenter, self.validation_cases, training_seconds, observer, masks=masks)

    def _validate(self, segmenter: NetworkSegmenter, masks: Path, speed: SpeedRecord | None) -> Validation | None:
        if not self.validation_cases:
            return None
        return validate_cases(segmenter, self.validation_cases, self.experiment.observer, masks=masks, speed=speed)

    def _fit_instances(self, segmenter: NetworkSegmenter, speed: SpeedRecord | None) -> InstanceValidation | None:
        """How objects are told apart, where the task has any."""
        if not self.experiment.task.has_instances:
            return None
        observer = self.experiment.observer
        found = fit_instances(segmenter, self.training_cases, self.validation_cases, observer, speed=speed)
        for line in (f"Objects: {found.rules.describe()}", *found.describe()):
            observer.on_message(line)
        return found

    def _write(
        self,
        result: LoopResult,
        validation: Validation | None,
        masks: Path,
        speed: SpeedRecord | None,
        instances: InstanceValidation | None,
    ) -> None:
        task, cases = self.experiment.task, (*self.training_cases, *self.validation_cases)
        quality = compute_quality_ranges(
            cases,
            task,
            dices=None if validation is None else list_dices(validation.scores),
            calibrations=None if validation is None else fit_calibrations(validation, task, masks),
            num_workers=count_workers(),
            on_case=count_cases("measuring", len(cases), self.experiment.observer),
        )
        write_results(
            self.folder,
            task,
            self.experiment.plan,
            self._build_record(result),
            summarize_validation(validation) | ({} if instances is None else {"instances": instances.to_metrics()}),
            postprocessing=None if validation is None else validation.postprocessing,
            instances=None if instances is None else instances.rules,
            quality=quality,
            speed=speed,
        )
        patches = draw_patches(self.trainer.sampler, task, result.iteration - 1)
        write_report(task, self.folder, validation, self.validation_cases, masks, patches)

    def _quantize(self, training_seconds: float) -> None:
        """Last, when the model is finished. Only a network that ``--speed fast`` may take on this machine's CPU: the first of
        several folds, and no first stage."""
        experiment = self.experiment
        is_asked = experiment.settings.fold != "cv" or self.fold == 0
        is_first_stage = self.folder.name == LOCATE or (
            experiment.plan.configuration == "3d-low" and experiment.settings.configuration != "3d-low"
        )
        if experiment.device.type == "cpu" and self.validation_cases and is_asked and not is_first_stage:
            quantize_after_training(
                self.folder, self.training_cases, self.validation_cases, training_seconds, experiment.observer
            )

    def _build_record(self, result: LoopResult) -> TrainingRecord:
        return build_record(
            self.experiment, self.trainer, result, self.fold, self.training_cases, self.validation_cases
        )


def build_record(
    experiment: Experiment,
    trainer: Trainer,
    result: LoopResult,
    fold: int | None,
    training_cases: Sequence[Case],
    validation_cases: Sequence[Case],
) -> TrainingRecord:
    """How a model came to be, for ``training.json``."""
    return TrainingRecord(
        medunet_version=medunet.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        dataset=experiment.dataset.name,
        is_synthetic=experiment.dataset.is_synthetic,
        training_cases=tuple(case.case_id for case in training_cases),
        validation_cases=tuple(case.case_id for case in validation_cases),
        case_list_sha256=_hash_cases(training_cases, validation_cases),
        fold=fold,
        budget=experiment.settings.budget or experiment.task.budget,
        num_iterations=result.iteration,
        seconds=round(result.seconds, 1),
        seed=experiment.settings.seed,
        is_deterministic=experiment.settings.deterministic,
        device=_describe_device(experiment.device),
        precision=experiment.precision,
        settings=_list_settings(experiment, trainer),
        versions=_list_versions(),
    )


def _list_settings(experiment: Experiment, trainer: Trainer) -> dict[str, Any]:
    """Without paths: a model travels, and folders may be named after patients."""
    settings = dataclasses.asdict(experiment.settings)
    sources = {"from_model": experiment.settings.from_model, "encoder": experiment.settings.encoder}
    return (
        {name: value for name, value in settings.items() if name not in _PATHS}
        | trainer.describe()
        | {name: path and Path(path).name for name, path in sources.items()}
    )


def _list_versions() -> dict[str, str]:
    versions = {name: get_version(name) for name in ("torch", "monai", "torchio", "numpy", "nibabel")}
    return versions | {"python": platform.python_version()}


def _list_parameters(experiment: Experiment, fold: int | None, trainer: Trainer) -> dict[str, int | float | bool | str]:
    """Settings and plan as one row."""
    settings = _list_settings(experiment, trainer)
    del settings["optimizer"]  # the plan holds it
    facts = {
        "fold": "all" if fold is None else fold,
        "budget": experiment.settings.budget or experiment.task.budget,
        "dataset": experiment.dataset.name,
        "device": _describe_device(experiment.device),
        "precision": experiment.precision,
    }
    plan = experiment.plan.model_dump(mode="json", exclude={"reasons", "version"})
    return flatten_document(settings | facts) | flatten_document(plan, where="plan")


def _list_tags(experiment: Experiment) -> dict[str, str]:
    task = experiment.task
    versions = {"medunet": medunet.__version__, **_list_versions()}
    return {
        "task": task.name,
        "title": task.title,
        "modality": task.modality,
        "is_synthetic": str(experiment.dataset.is_synthetic),
    } | {f"version.{name}": version for name, version in versions.items()}


def _compute_checksum(case: StoredCase) -> str:
    """Of voxels and labels, and of what the labels leave open."""
    if case.annotated is None:
        return case.checksum
    return hashlib.sha256(f"{case.checksum} {case.annotated}".encode()).hexdigest()


def _hash_cases(*groups: Sequence[Case]) -> str:
    ids = [[case.case_id for case in group] for group in groups]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
