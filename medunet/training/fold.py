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

import torch

import medunet
from medunet.device import count_workers
from medunet.evaluation import Evaluation
from medunet.inference.locating import Locator
from medunet.models import SpeedRecord
from medunet.models.folder import TrainingRecord, write_results, write_weights
from medunet.postprocessing import compute_quality_ranges
from medunet.preprocessing import StoredCase
from medunet.tasks import Case, split_fold
from medunet.training.experiment import Experiment, count_cases
from medunet.training.fine_tune import load_matching_weights
from medunet.training.identity import RunIdentity
from medunet.training.loop import LoopResult, Trainer
from medunet.training.losses import LossName
from medunet.training.previous_stage import PreviousStage
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

_PATHS = ("task", "data", "splits", "from_model")
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
    trainer = _build_trainer(experiment, folder, training_cases, validation_cases, previous)
    if experiment.source is not None and not resumes:
        report = load_matching_weights(
            trainer.engine.network, experiment.task, experiment.plan, experiment.source
        ).describe()
        for line in report:
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


def _build_trainer(
    experiment: Experiment,
    folder: Path,
    training_cases: Sequence[Case],
    validation_cases: Sequence[Case],
    previous: PreviousStage | None,
) -> Trainer:
    settings = experiment.settings
    groups = (training_cases, validation_cases[:_NUM_WATCHED])
    training, watched = (experiment.open_cases(cases) for cases in groups)
    if previous is not None:
        training, watched = (
            previous.add_labels(cases, stored) for cases, stored in zip(groups, (training, watched), strict=True)
        )
    loss: LossName = experiment.plan.loss if settings.loss == "auto" else settings.loss
    identity = RunIdentity(
        medunet_version=medunet.__version__,
        case_checksums={case.case_id: _compute_checksum(case) for case in (*training, *watched)},
        training_cases=tuple(case.case_id for case in training_cases),
        validation_cases=tuple(case.case_id for case in validation_cases),
        plan=experiment.plan.model_dump(mode="json"),
        task=experiment.task.model_dump(mode="json"),
        loss=loss,
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
        augmentation=settings.augmentation,
        identity=identity,
        observer=experiment.observer,
        loss=loss,
        compilation=settings.compile,
        world=experiment.world,
        should_stop=experiment.signals.should_stop,
        groups=[case.group for case in training_cases],
        num_workers=settings.workers,
        save_seconds=settings.save_seconds,
    )


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
                speed = self._measure_speeds(segmenter, result.seconds)
                validation = self._validate(segmenter, masks, speed)
                self._write(result, validation, masks, speed)
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

    def _measure_speeds(self, segmenter: NetworkSegmenter, training_seconds: float) -> SpeedRecord | None:
        if not self.validation_cases:
            return None
        return measure_speeds(segmenter, self.validation_cases, training_seconds, self.experiment.observer)

    def _validate(self, segmenter: NetworkSegmenter, masks: Path, speed: SpeedRecord | None) -> Validation | None:
        if not self.validation_cases:
            return None
        return validate_cases(segmenter, self.validation_cases, self.experiment.observer, masks=masks, speed=speed)

    def _write(self, result: LoopResult, validation: Validation | None, masks: Path, speed: SpeedRecord | None) -> None:
        task, cases = self.experiment.task, (*self.training_cases, *self.validation_cases)
        quality = compute_quality_ranges(
            cases,
            task,
            dices=None if validation is None else list_dices(validation.scores),
            calibrations=None if validation is None else fit_calibrations(validation, masks),
            num_workers=count_workers(),
            on_case=count_cases("measuring", len(cases), self.experiment.observer),
        )
        write_results(
            self.folder,
            task,
            self.experiment.plan,
            self._build_record(result),
            summarize_validation(validation),
            postprocessing=None if validation is None else validation.postprocessing,
            quality=quality,
            speed=speed,
        )
        patches = draw_patches(self.trainer.sampler, task, result.iteration - 1)
        write_report(task, self.folder, validation, self.validation_cases, masks, patches)

    def _build_record(self, result: LoopResult) -> TrainingRecord:
        experiment = self.experiment
        settings = dataclasses.asdict(experiment.settings)
        return TrainingRecord(
            medunet_version=medunet.__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            dataset=experiment.dataset.name,
            is_synthetic=experiment.dataset.is_synthetic,
            training_cases=tuple(case.case_id for case in self.training_cases),
            validation_cases=tuple(case.case_id for case in self.validation_cases),
            case_list_sha256=_hash_cases(self.training_cases, self.validation_cases),
            fold=self.fold,
            budget=experiment.settings.budget or experiment.task.budget,
            num_iterations=result.iteration,
            seconds=round(result.seconds, 1),
            seed=experiment.settings.seed,
            is_deterministic=experiment.settings.deterministic,
            device=_describe_device(experiment.device),
            precision=experiment.precision,
            # Without paths: a model travels, and folders may be named after patients.
            settings={name: value for name, value in settings.items() if name not in _PATHS}
            | self.trainer.describe()
            | {"from_model": experiment.settings.from_model and Path(experiment.settings.from_model).name},
            versions={name: get_version(name) for name in ("torch", "monai", "torchio", "numpy", "nibabel")}
            | {"python": platform.python_version()},
        )


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
