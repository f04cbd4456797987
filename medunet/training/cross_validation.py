"""Every fold in turn: each case is scored once, by a network that has not seen it, and all networks are one model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.evaluation import CaseFailure
from medunet.models.ensemble import write_ensemble
from medunet.models.folder import ModelRecords, read_records, write_description, write_results
from medunet.models.names import METRICS
from medunet.postprocessing import compute_quality_ranges
from medunet.tasks import count_folds, split_fold
from medunet.training.experiment import Experiment, count_cases, count_workers
from medunet.training.fold import TrainingResult, list_dices, train_fold
from medunet.training.report import write_report
from medunet.training.state import STATE_FOLDER, has_state
from medunet.training.validation import Validation, score_masks, summarize_validation

MASKS_FOLDER = "masks"


def train_every_fold(experiment: Experiment, folder: Path) -> TrainingResult:
    """Train one network per fold, and make one model of them.

    The folds become model folders ``fold_0``, ``fold_1`` and so on below ``folder``. ``folder`` itself becomes a model
    that averages them; its post-processing is what helps over all cases. Finished folds are kept when a run is resumed.

    Args:
        experiment: What is learnt, from what and how.
        folder: The run folder; holds plan and task.
    """
    masks = folder / STATE_FOLDER / MASKS_FOLDER
    folds = [folder / f"fold_{fold}" for fold in range(count_folds(experiment.dataset, experiment.splits))]
    for fold, fold_folder in enumerate(folds):
        if (fold_folder / METRICS).is_file():
            experiment.observer.on_message(f"Fold {fold} is finished already.")
            continue
        experiment.observer.on_message(f"Fold {fold} of {len(folds)}")
        if experiment.world.is_first:
            write_description(fold_folder, experiment.task, experiment.plan)
        train_fold(experiment, fold_folder, fold, resumes=has_state(fold_folder), masks=masks)
    validation = _finish(experiment, folder, folds, masks) if experiment.world.is_first else None
    records = [read_records(fold_folder) for fold_folder in folds]
    return TrainingResult(
        folder=folder,
        validation_cases=experiment.dataset.cases,
        evaluation=validation,
        num_iterations=sum(record.training.num_iterations for record in records),
        seconds=sum(record.training.seconds for record in records),
        data_wait=None,
    )


def _finish(experiment: Experiment, folder: Path, folds: Sequence[Path], masks: Path) -> Validation:
    """Score the masks of all folds together, and write the model that averages their networks."""
    records = [read_records(fold_folder) for fold_folder in folds]
    cases = [case for fold in range(len(folds)) for case in split_fold(experiment.dataset, fold, experiment.splits)[1]]
    validation = score_masks(cases, experiment.task, masks, _list_failures(records))
    quality = compute_quality_ranges(
        experiment.dataset.cases,
        experiment.task,
        dices=list_dices(validation),
        num_workers=count_workers(),
        on_case=count_cases("measuring", len(experiment.dataset.cases), experiment.observer),
    )
    write_ensemble(folder, [fold_folder.name for fold_folder in folds])
    case_ids = tuple(case.case_id for case in experiment.dataset.cases)
    record = records[0].training.model_copy(
        update={
            "training_cases": case_ids,
            "validation_cases": tuple(case.case_id for case in cases),
            "fold": None,
            "num_iterations": sum(one.training.num_iterations for one in records),
            "seconds": round(sum(one.training.seconds for one in records), 1),
            "weights_sha256": "",
        }
    )
    write_results(
        folder,
        experiment.task,
        experiment.plan,
        record,
        summarize_validation(validation) | {"folds": [_summarize_fold(one.metrics) for one in records]},
        postprocessing=validation.postprocessing,
        quality=quality,
    )
    write_report(experiment.task, folder, validation, cases, masks)
    shutil.rmtree(masks)
    return validation


def _list_failures(records: Sequence[ModelRecords]) -> list[CaseFailure]:
    return [CaseFailure(**failure) for one in records for failure in one.metrics.get("failed", ())]


def _summarize_fold(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"num_cases": metrics["num_cases"], "mean_dice": metrics["mean_dice"]}
