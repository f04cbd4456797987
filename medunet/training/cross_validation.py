"""Every fold in turn: each case is scored once, by a network that has not seen it, and all networks are one model."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from medunet.device import count_workers
from medunet.errors import ModelError
from medunet.evaluation import CaseFailure
from medunet.inference import Predictor
from medunet.inference.settings import REPRODUCIBLE
from medunet.models import (
    ModelRecords,
    combine_instance_rules,
    combine_records,
    combine_speed_records,
    read_model,
    read_records,
    write_description,
    write_ensemble,
    write_results,
)
from medunet.models.names import METRICS, STATE_FOLDER
from medunet.postprocessing import compute_quality_ranges
from medunet.tasks import Case, count_folds, split_fold
from medunet.training.experiment import Experiment, count_cases
from medunet.training.fold import TrainingResult, train_fold
from medunet.training.identity import describe_other_cases
from medunet.training.mask_pairs import has_mask_pair
from medunet.training.report import write_report
from medunet.training.state import has_state
from medunet.training.validation import (
    Validation,
    fit_calibrations,
    list_dices,
    predict_masks,
    score_masks,
    summarize_validation,
)

MASKS_FOLDER = "masks"


class TrainOne(Protocol):
    """Trains and validates what one fold becomes: `train_fold`, or `medunet.training.cascade.train_cascade`."""

    def __call__(
        self, experiment: Experiment, folder: Path, fold: int | None, *, resumes: bool, masks: Path | None = None
    ) -> TrainingResult:
        """Train, validate, and leave a model folder; masks of the validation cases stay where they are asked for."""


def train_every_fold(
    experiment: Experiment,
    folder: Path,
    *,
    train_one: TrainOne = train_fold,
    name: str = "fold",
    masks: Path | None = None,
) -> TrainingResult:
    """Train one network per fold, and make one model of them.

    The folds become model folders ``fold_0``, ``fold_1`` and so on below ``folder``. ``folder`` itself becomes a model
    that averages them; its post-processing is what helps over all cases. Finished folds are kept when a run is resumed.

    Args:
        experiment: What is learnt, from what and how.
        folder: The run folder; holds plan and task.
        train_one: Trains a fold.
        name: Of the folders, before the number.
        masks: Where masks of all cases stay; None keeps none.

    Raises:
        ModelError: If a fold was finished with other cases than it would have now.
    """
    keeps_masks, masks = masks is not None, masks or folder / STATE_FOLDER / MASKS_FOLDER
    folds = [folder / f"{name}_{fold}" for fold in range(count_folds(experiment.dataset, experiment.splits))]
    for fold, fold_folder in enumerate(folds):
        if (fold_folder / METRICS).is_file():
            groups = split_fold(experiment.dataset, fold, experiment.splits)
            check_has_same_cases(fold_folder, *([case.case_id for case in cases] for cases in groups))
            experiment.observer.on_message(f"{name.capitalize()} {fold} is finished already.")
            continue
        experiment.observer.on_message(f"{name.capitalize()} {fold} of {len(folds)}")
        if experiment.world.is_first:
            write_description(fold_folder, experiment.task, experiment.plan)
        train_one(experiment, fold_folder, fold, resumes=has_state(fold_folder), masks=masks)
    validation = None
    with experiment.world.in_turn():  # the first process writes what the others read
        if experiment.world.is_first:
            validation = _finish(experiment, folder, folds, masks)
            experiment.observer.on_model(folder)
            if not keeps_masks:
                shutil.rmtree(masks)
        record = read_records(folder).training
    return TrainingResult(
        folder=folder,
        validation_cases=experiment.dataset.cases,
        evaluation=validation,
        num_iterations=record.num_iterations,
        seconds=record.seconds,
        data_wait=None,
    )


def check_has_same_cases(folder: Path, training_cases: Collection[str], validation_cases: Collection[str]) -> None:
    """Refuse to go on with a finished network that learnt from other cases: it may know those that it would be scored on.

    Args:
        folder: Of the network.
        training_cases: Ids of those that it would learn from now.
        validation_cases: Ids of those that it would be scored on.

    Raises:
        ModelError: With what differs.
    """
    record = read_records(folder).training
    before, now = (record.training_cases, record.validation_cases), (training_cases, validation_cases)
    if difference := describe_other_cases(before, now):
        msg = (
            f"{folder} was trained with other cases: {difference}. Restore what it was trained with, or start a new "
            "training with another --output."
        )
        raise ModelError(msg)


def _finish(experiment: Experiment, folder: Path, folds: Sequence[Path], masks: Path) -> Validation:
    """Score the masks of all folds together, and write the model that averages their networks."""
    records = [read_records(fold_folder) for fold_folder in folds]
    cases, failures = _complete_masks(experiment, records, masks)
    validation = score_masks(cases, experiment.task, masks, failures)
    quality = compute_quality_ranges(
        experiment.dataset.cases,
        experiment.task,
        dices=list_dices(validation.scores),
        calibrations=fit_calibrations(validation, experiment.task, masks),
        num_workers=count_workers(),
        on_case=count_cases("measuring", len(experiment.dataset.cases), experiment.observer),
    )
    record = combine_records([one.training for one in records])
    write_ensemble(folder, [fold_folder.name for fold_folder in folds], record)
    write_results(
        folder,
        experiment.task,
        experiment.plan,
        record,
        summarize_validation(validation) | {"folds": [_summarize_fold(one.metrics) for one in records]},
        postprocessing=validation.postprocessing,
        instances=combine_instance_rules([one.instances for one in records]) if experiment.task.has_instances else None,
        quality=quality,
        speed=combine_speed_records([one.speed for one in records]),
    )
    write_report(experiment.task, folder, validation, cases, masks)
    return validation


def _complete_masks(
    experiment: Experiment, folds: Sequence[ModelRecords], masks: Path
) -> tuple[list[Case], list[CaseFailure]]:
    """Every validation case once, and those that have no masks.

    Masks that are gone, because the run was finished before or came here without its state, are made again.
    """
    cases: dict[Case, None] = {}
    failures: list[CaseFailure] = []
    for fold, records in enumerate(folds):
        of_fold = [case for case in split_fold(experiment.dataset, fold, experiment.splits)[1] if case not in cases]
        cases |= dict.fromkeys(of_fold)
        known = [CaseFailure(**failure) for failure in records.metrics.get("failed", ())]
        failed = {failure.case_id for failure in known}
        missing = [case for case in of_fold if case.case_id not in failed and not has_mask_pair(masks, case.case_id)]
        failures += known + (_predict_again(experiment, records.folder, missing, masks) if missing else [])
    return list(cases), failures


def _predict_again(experiment: Experiment, folder: Path, cases: Sequence[Case], masks: Path) -> list[CaseFailure]:
    predictor = Predictor(read_model(folder), experiment.device, experiment.precision, REPRODUCIBLE)
    return predict_masks(predictor.segment_with_agreement, cases, experiment.task, masks, experiment.observer)


def _summarize_fold(metrics: dict[str, Any]) -> dict[str, Any]:
    summary = {"num_cases": metrics["num_cases"], "mean_dice": metrics["mean_dice"]}
    return summary | ({"instances": metrics["instances"]["summary"]} if "instances" in metrics else {})
